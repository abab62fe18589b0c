"""The LRU cache bounded by bytes."""

from __future__ import annotations

from udq.common.byte_cache import Cache


def test_the_least_recently_used_value_is_evicted_first():
    cache = Cache[str](10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"  # now "b" is the least recently used
    cache.put("c", "C", 4)

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")
    assert cache.size == 8


def test_a_value_put_again_counts_once():
    cache = Cache[str](10)
    cache.put("a", "A", 8)
    cache.put("a", "AA", 9)

    assert (cache.get("a"), cache.size) == ("AA", 9)


def test_a_value_larger_than_the_cache_is_not_kept_and_evicts_nothing():
    cache = Cache[str](10)
    cache.put("a", "A", 10)
    cache.put("b", "B", 11)

    assert (cache.get("a"), cache.get("b"), cache.size) == ("A", None, 10)
