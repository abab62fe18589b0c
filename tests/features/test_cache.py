"""The cache of extracted photos."""

from __future__ import annotations

import pytest

from udq.config import FeatureConfig, ImageConfig
from udq.features import cache as caching
from udq.features.cache import FeatureCache
from udq.features.extractor import Extractor
from udq.photos.source import Source, content


@pytest.fixture(scope="module")
def extractor():
    return Extractor(ImageConfig(shorter=160, longer=240), FeatureConfig(), device="cpu")


def test_a_cached_photo_keeps_the_content_of_its_file(extractor, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    paths = [photos / "coffee.png", tmp_path / "empty.jpg", tmp_path / "gone.jpg"]
    sources = [Source(path.name, path) for path in paths]
    cache = FeatureCache(tmp_path / "cache", sources, extractor.extract)
    found = list(cache.fill())

    assert [photo.content for photo in found] == [content(paths[0]), content(paths[1]), None]
    again = list(cache.drain(skip=0))
    assert [photo.content for photo in again] == [photo.content for photo in found]
    assert [photo.broken for photo in again] == [photo.broken for photo in found]
    assert [photo.source for photo in again] == sources


def test_photos_of_a_slow_network_are_stored_before_a_file_is_full(extractor, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "_SECONDS", 0.0)
    sources = [Source(name, photos / name) for name in ("coffee.png", "page.png", "rocket.png")]
    cache = FeatureCache(tmp_path / "cache", sources, extractor.extract)
    stored = [len(list(cache.folder.iterdir())) for _ in cache.fill()]

    assert stored == [1, 2, 3]
    assert [photo.source for photo in cache.drain(skip=0)] == sources
