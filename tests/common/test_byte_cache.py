"""The cache bounded in bytes."""

from __future__ import annotations

from udq.common.byte_cache import Cache


def test_the_cache_evicts_the_least_recently_used():
    cache = Cache(10)
    for key in "abc":
        cache.put(key, key, 4)
    assert [cache.get(key) for key in "abc"] == [None, "b", "c"]
    cache.get("b")
    cache.put("d", "d", 4)
    assert [cache.get(key) for key in "bcd"] == ["b", None, "d"]
    cache.put("b", "B", 1)
    cache.put("e", "e", 11)
    assert (cache.get("b"), cache.get("e"), cache.size) == ("B", None, 5)
    cache.clear()
    assert (cache.get("b"), cache.size) == (None, 0)
