"""The cache of extracted photos."""

from __future__ import annotations

import pytest

from udq.config import FeatureConfig, ImageConfig
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
