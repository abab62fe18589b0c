"""Features stored between runs: nothing is extracted twice, and no entry is used for another photo or setting."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch

from udq.common import provenance
from udq.config import IndexConfig
from udq.errors import UdqError
from udq.features import feature_store
from udq.features.extractor import Extractor
from udq.features.feature_store import FeatureStore
from udq.photos.source import Source, find

CONFIG = IndexConfig().replace({"images": {"shorter": 96, "longer": 128}})


@pytest.fixture
def extractor():
    return Extractor(CONFIG.images, CONFIG.features, device="cpu").proposing()


@pytest.fixture
def sources(photos, tmp_path):
    """Three photos of a folder that a test may change."""
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.png"):
        shutil.copy(photos / name, tmp_path / "photos")
    return find([tmp_path / "photos"])[0]


@pytest.fixture
def extracted(extractor, monkeypatch):
    """Names of the photos that the network has seen."""
    names = []
    extract = extractor.extract

    def noted(sources, decoder=None):
        for photo in extract(sources, decoder):
            names.append(photo.source.name)
            yield photo

    monkeypatch.setattr(extractor, "extract", noted)
    return names


def same(one, other):
    assert (one.source, one.width, one.height, one.broken, one.content) == (
        other.source, other.width, other.height, other.broken, other.content,
    )  # fmt: skip
    np.testing.assert_array_equal(one.regions.boxes, other.regions.boxes)
    np.testing.assert_array_equal(one.features.vectors, other.features.vectors)


def test_a_second_run_extracts_nothing_and_finds_the_same(extractor, extracted, sources, tmp_path):
    direct = list(extractor.extract(sources))
    extracted.clear()
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)

    first = list(cache.extract(sources))
    assert extracted == [source.name for source in sources]
    assert cache.extracted == 3
    again = FeatureStore(tmp_path / "kept", extractor, CONFIG)
    second = list(again.extract(sources))

    assert len(extracted) == 3
    assert again.extracted == 0
    for photo, fresh, kept in zip(direct, first, second, strict=True):
        same(photo, fresh)
        same(photo, kept)


def test_photos_come_in_order_whether_they_are_kept_or_not(extractor, extracted, sources, tmp_path):
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)
    list(cache.extract(sources[1:2]))

    found = [photo.source for photo in cache.extract(iter(sources))]

    assert found == sources
    assert extracted == ["coffee.png", "chelsea.png", "rocket.png"]


def test_a_photo_that_changed_is_extracted_again(extractor, extracted, sources, photos, tmp_path):
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)
    before = list(cache.extract(sources))
    shutil.copy(photos / "astronaut.png", sources[1].path)
    extracted.clear()

    after = list(cache.extract(sources))

    assert extracted == ["coffee.png"]
    same(before[0], after[0])
    assert (after[1].width, after[1].height) == (512, 512)


def test_a_photo_that_cannot_be_read_is_tried_again_each_time(extractor, extracted, sources, tmp_path):
    sources[1].path.write_text("no photo")
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)

    for _ in range(2):
        found = list(cache.extract(sources))
        assert [photo.broken is None for photo in found] == [True, False, True]

    assert extracted == ["chelsea.png", "coffee.png", "rocket.png", "coffee.png"]


def test_a_query_is_kept_with_its_box(extractor, sources, tmp_path, monkeypatch):
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)
    path = sources[0].path
    whole, part = cache.describe(path, None), cache.describe(path, (10, 10, 200, 150))

    np.testing.assert_array_equal(whole, extractor.describe(path, None)[1])
    np.testing.assert_array_equal(part, extractor.describe(path, (10, 10, 200, 150))[1])
    assert cache.extracted == 2
    monkeypatch.setattr(extractor, "describe", None)
    again = FeatureStore(tmp_path / "kept", extractor, CONFIG)
    np.testing.assert_array_equal(again.describe(path, (10, 10, 200, 150)), part)
    np.testing.assert_array_equal(again.describe(path, None), whole)
    assert again.extracted == 0


def folder_of(tmp_path, extractor, config):
    return FeatureStore(tmp_path / "kept", extractor, config).folder


@pytest.mark.parametrize(
    "changes",
    [
        {"images": {"shorter": 97}},
        {"images": {"longer": 129}},
        {"features": {"regions": 99}},
        {"features": {"p": 2.0}},
        {"features": {"pooling": "roi"}},
        {"features": {"proposals": "grid"}},
    ],
)
def test_other_settings_of_extraction_have_features_of_their_own(extractor, tmp_path, changes):
    assert folder_of(tmp_path, extractor, CONFIG.replace(changes)) != folder_of(tmp_path, extractor, CONFIG)


def test_photos_with_local_features_are_not_taken_for_those_without(extractor, tmp_path):
    with_points = Extractor(CONFIG.images, CONFIG.features, CONFIG.keypoints, device="cpu")

    assert folder_of(tmp_path, with_points, CONFIG) != folder_of(tmp_path, extractor, CONFIG)


def test_settings_of_what_comes_later_have_the_same_features(extractor, tmp_path):
    later = {"sample": {"seed": 3}, "quantizer": {"subspaces": 4}, "training": {"enabled": False}}
    assert folder_of(tmp_path, extractor, CONFIG.replace(later)) == folder_of(tmp_path, extractor, CONFIG)


def test_settings_of_queries_change_features_of_queries_alone(sources, tmp_path):
    other = CONFIG.replace({"images": {"mirror": False}})
    caches = [
        FeatureStore(tmp_path / "kept", Extractor(each.images, each.features, device="cpu"), each)
        for each in (CONFIG, other)
    ]

    assert caches[0].folder == caches[1].folder
    mirrored, plain = (cache.describe(sources[0].path, None) for cache in caches)
    assert not np.array_equal(mirrored, plain)


def test_other_weights_versions_and_code_have_features_of_their_own(extractor, tmp_path, monkeypatch):
    folders = {folder_of(tmp_path, extractor, CONFIG)}

    with torch.no_grad():
        next(iter(extractor.trunk.parameters())).mul_(2)
    folders.add(folder_of(tmp_path, extractor, CONFIG))
    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "versions", lambda: {"numpy": "0.1"})
        folders.add(folder_of(tmp_path, extractor, CONFIG))
    rpn = tmp_path / "rpn.npz"
    rpn.write_bytes(b"weights")
    extractor.rpn = rpn
    folders.add(folder_of(tmp_path, extractor, CONFIG))
    root = tmp_path / "udq"
    for package in feature_store.CODE:
        shutil.copytree(provenance._ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_ROOT", root)
    provenance.code.cache_clear()
    assert folder_of(tmp_path, extractor, CONFIG) in folders  # the same code elsewhere
    (root / "features" / "pooling.py").write_text("P = 4")
    provenance.code.cache_clear()
    folders.add(folder_of(tmp_path, extractor, CONFIG))
    provenance.code.cache_clear()

    assert len(folders) == 5


@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_a_damaged_file_is_named_with_what_to_do(extractor, sources, tmp_path, ending):
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)

    def ask():
        list(cache.extract(sources[:1]))
        cache.describe(sources[0].path, None)

    ask()
    [file] = cache.folder.glob(f"*{ending}")
    file.write_bytes(file.read_bytes()[:50])

    with pytest.raises(UdqError) as raised:
        ask()
    assert str(raised.value).startswith(f"{file}: expected stored features, found a damaged file (")
    assert str(raised.value).endswith("; delete it, and what it held is extracted again")
    assert "\n" not in str(raised.value)
    file.unlink()
    ask()


def test_photos_of_one_name_in_two_folders_are_two(extractor, sources, photos, tmp_path):
    other = tmp_path / "other" / "coffee.png"
    other.parent.mkdir()
    shutil.copy(photos / "rocket.png", other)
    status = sources[1].path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    cache = FeatureStore(tmp_path / "kept", extractor, CONFIG)

    one, two = cache.extract([sources[1], Source("coffee.png", other)])

    assert (one.width, one.height) != (two.width, two.height)
    assert [photo.width for photo in cache.extract([sources[1], Source("coffee.png", other)])] == [one.width, two.width]
