"""A collection has outgrown its model if newer photos show other things, not if they show more of the same."""

from __future__ import annotations

import shutil

import pytest
from configs import QUICK

from udq import Collection
from udq.experiments.demo.cutouts import photo
from udq.indexing.drift import Drift


def crops(folder, names, count, seed):
    """Cut photos into overlapping ones."""
    folder.mkdir(exist_ok=True)
    for name in names:
        whole = photo(name).convert("RGB").resize((440, 330))
        for i in range(count):
            shift = 4 * i + 2 * seed
            whole.crop((shift, shift, shift + 360, shift + 270)).save(folder / f"{name}-{seed}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A collection of views of two photos."""
    folder = tmp_path_factory.mktemp("drift")
    Collection.build(crops(folder / "views", ("china", "coffee"), 10, 0), folder / "x.udq", config=QUICK, device="cpu")
    return folder


@pytest.fixture
def place(before, tmp_path):
    shutil.copytree(before / "x.udq", tmp_path / "x.udq")
    return tmp_path


def test_a_collection_as_it_was_built_has_not_drifted(before, udq):
    assert Collection.open(before / "x.udq").drift is None
    assert "newer" not in udq("info", before / "x.udq")[1]


def test_more_of_the_same_is_no_drift(place, udq):
    more = crops(place / "more", ("china", "coffee"), 6, 1)
    _, said, _ = udq("add", place / "x.udq", more, "--device", "cpu")
    drift = Collection.open(place / "x.udq").drift

    assert (drift.older_photos, drift.newer_photos) == (20, 12)
    assert not drift.outgrown
    assert "outgrown" not in said
    _, said, _ = udq("info", place / "x.udq")
    assert f"12 newer photos; quantization error {drift.newer:.2f}, of the others {drift.older:.2f}\n" in said
    assert "retrain" not in said


def test_photos_of_other_things_are_drift_until_the_collection_is_retrained(place, udq):
    others = crops(place / "others", ("astronaut", "chelsea", "rocket"), 4, 0)
    _, said, _ = udq("add", place / "x.udq", others, "--device", "cpu")
    advice = f"udq retrain {place / 'x.udq'}"
    drift = Collection.open(place / "x.udq").drift

    assert drift.outgrown
    assert "outgrown its model" in said
    assert advice in said
    assert advice in udq("info", place / "x.udq")[1]

    fitted = Collection.retrain(place / "x.udq", config=QUICK, device="cpu")
    assert len(fitted) == 32
    assert fitted.drift is None
    again, _ = fitted.add(crops(place / "more", ("astronaut", "china", "coffee"), 4, 1))
    assert not again.drift.outgrown


def test_drift_needs_a_large_excess_and_enough_photos():
    assert Drift(0.1, 0.8, 100, 100).outgrown
    assert Drift(0.1, 0.8, 100, 100).to_json()["excess"] == pytest.approx(0.7)
    assert not Drift(0.02, 0.1, 100, 100).outgrown  # many times a tiny error
    assert not Drift(0.7, 0.75, 10_000, 10_000).outgrown  # a large collection does not overfit
    assert not Drift(0.1, 0.8, 4, 9).outgrown
    assert Drift(0.1, 0.8, 4, 10).outgrown
    assert not Drift(0.4, 0.8, 10_000, 300).outgrown
    assert Drift(0.4, 0.8, 10_000, 400).outgrown
