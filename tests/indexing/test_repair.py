"""Damage is found, named, and repaired from the photos."""

from __future__ import annotations

import json
import shutil

import pytest
from test_update import answers, ids, opened

from udq import Collection
from udq.errors import CollectionError, InputError
from udq.indexing.repair import Repaired, repair
from udq.indexing.verify import verify
from udq.store import manifest as manifests


def flip(file, at=-1):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_an_intact_collection_needs_no_repair(place):
    before = manifests.read_manifest(place / "x.udq")
    assert repair(place / "x.udq", device="cpu") == Repaired()
    assert manifests.read_manifest(place / "x.udq") == before


@pytest.mark.parametrize("name", ["codes.npy", "boxes.npy", "offsets.npy"])
def test_damaged_codes_are_refused_and_repaired_from_the_photos(place, name):
    before = answers(opened(place))
    [segment] = opened(place).segments
    flip(place / "x.udq" / segment.folder / name)
    with pytest.raises(CollectionError, match=rf"{name}: damaged \(checksum differs\).*udq verify --repair"):
        opened(place).search(place / "photos" / "coins.png")
    [damage] = verify(place / "x.udq")
    assert damage.file == f"{segment.folder}/{name}"
    assert damage.images == ("astronaut.png", "coffee.png", "coins.png", "rocket.png")
    (place / "photos" / "coins.png").unlink()
    done = repair(place / "x.udq", device="cpu")

    assert (set(done.restored), done.dropped) == ({"astronaut.png", "coffee.png", "rocket.png"}, ("coins.png",))
    assert verify(place / "x.udq") == []
    for old, new in zip(before, answers(opened(place)), strict=True):
        assert new == {name: distance for name, distance in old.items() if name != "coins.png"}


def test_photos_whose_names_are_lost_are_counted_and_found_again_by_mirroring(place):
    [segment] = opened(place).segments
    flip(place / "x.udq" / segment.folder / "images.json")
    [damage] = verify(place / "x.udq")
    assert "4 photos whose names are lost" in damage.affects
    done = repair(place / "x.udq", device="cpu")

    assert (done.nameless, len(opened(place)), verify(place / "x.udq")) == (4, 0, [])
    assert opened(place).add(place / "photos", sync=True)[1].added == 4


def test_photos_whose_ids_are_lost_are_encoded_again_under_new_ids(place):
    before = answers(opened(place))
    [segment] = opened(place).segments
    flip(place / "x.udq" / segment.folder / "photos.npy")
    (place / "photos" / "coins.png").unlink()
    done = repair(place / "x.udq", device="cpu")

    assert (done.dropped, done.nameless, verify(place / "x.udq")) == (("coins.png",), 0, [])
    assert ids(opened(place)) == {"astronaut.png": 4, "coffee.png": 5, "rocket.png": 7}
    for old, new in zip(before, answers(opened(place)), strict=True):
        assert new.items() <= old.items()


def test_removed_photos_whose_ids_are_lost_are_back_and_counted(place):
    [segment] = opened(place).remove(["coffee.png"])[0].segments
    flip(place / "x.udq" / segment.folder / "photos.npy")
    done = repair(place / "x.udq", device="cpu")

    assert (done.back, len(opened(place)), verify(place / "x.udq")) == (1, 4, [])


def test_photos_whose_files_are_all_missing_are_not_dropped(place):
    [segment] = opened(place).segments
    flip(place / "x.udq" / segment.folder / "boxes.npy")
    (place / "photos").rename(place / "elsewhere")
    with pytest.raises(CollectionError, match=r"none of the 4 photos in a damaged file exists"):
        repair(place / "x.udq", device="cpu")
    (place / "elsewhere").rename(place / "photos")
    assert len(repair(place / "x.udq", device="cpu").restored) == 4


@pytest.mark.parametrize("file", ["codes.npy", "photos.npy", "model"])
def test_a_repair_does_not_drop_the_photos_of_a_folder_that_is_away(place, photos, udq, file):
    whole, _ = opened(place).add(photos / "views")
    before = ids(whole)
    shutil.copytree(photos / "views", place / "disk")
    opened(place).relocate(photos / "views", place / "disk")
    [segment] = opened(place).segments
    name = "model-000001.npz" if file == "model" else f"{segment.folder}/{file}"
    flip(place / "x.udq" / name)
    (place / "disk").rename(place / "unmounted")
    code, _, err = udq("verify", place / "x.udq", "--repair", "--device", "cpu")
    assert (code, "Traceback" in err) == (1, False)
    assert f"{place}/disk: the collection has 2 photos of this folder, which is not there" in err.splitlines()[-1]
    (place / "unmounted").rename(place / "disk")
    done = repair(place / "x.udq", device="cpu")
    assert (done.dropped, ids(opened(place)).keys()) == ((), before.keys())
    if file == "codes.npy":
        flip(place / "x.udq" / opened(place).segments[0].folder / file)
        (place / "disk").rename(place / "unmounted")
        assert len(repair(place / "x.udq", device="cpu", yes=True).dropped) == 2


def test_a_repair_does_not_drop_photos_of_which_none_can_be_read(place, udq):
    before = ids(opened(place))
    flip(place / "x.udq" / opened(place).segments[0].folder / "codes.npy")
    whole = {file: file.read_bytes() for file in (place / "photos").iterdir()}
    for file, data in whole.items():
        file.write_bytes(data[:200])
    code, _, err = udq("verify", place / "x.udq", "--repair", "--device", "cpu")
    assert code == 1
    assert "cannot be read any more, nor any other of the 4 photos in a damaged file" in err.splitlines()[-1]
    for file, data in whole.items():
        file.write_bytes(data)
    assert repair(place / "x.udq", device="cpu").dropped == ()
    assert ids(opened(place)) == before


def test_a_path_that_is_not_a_collection_is_not_changed(place):
    with pytest.raises(InputError, match="no such collection"):
        repair(place / "nothing.udq")
    with pytest.raises(CollectionError, match="not a udq collection"):
        repair(place / "photos")
    assert not (place / "nothing.udq").exists()
    assert not (place / "photos" / "lock").exists()


@pytest.mark.parametrize("at", [0, 200, -1])
def test_a_damaged_manifest_is_restored_from_its_copy(place, at):
    manifest = place / "x.udq" / "collection.json"
    whole = manifest.read_bytes()
    flip(manifest, at)
    with pytest.raises(CollectionError):
        Collection.open(place / "x.udq")
    assert [damage.file for damage in verify(place / "x.udq")] == ["collection.json"]
    repair(place / "x.udq", device="cpu")
    assert manifest.read_bytes() == whole
    flip(place / "x.udq" / "collection.copy.json", at)
    assert [damage.file for damage in verify(place / "x.udq")] == ["collection.copy.json"]
    assert len(opened(place)) == 4
    repair(place / "x.udq", device="cpu")
    assert verify(place / "x.udq") == []
    flip(manifest, at)
    flip(place / "x.udq" / "collection.copy.json", at)
    with pytest.raises(CollectionError):
        repair(place / "x.udq", device="cpu")


def test_a_damaged_model_is_retrained(place):
    before = ids(opened(place))
    flip(place / "x.udq" / opened(place).manifest.document["model"]["file"])
    with pytest.raises(CollectionError, match="damaged"):
        opened(place).search(place / "photos" / "coins.png")
    (place / "photos" / "coins.png").unlink()
    done = repair(place / "x.udq", device="cpu")

    assert done.dropped == ("coins.png",)
    assert ids(opened(place)) == {name: number for name, number in before.items() if name != "coins.png"}
    assert verify(place / "x.udq") == []
    assert opened(place).search(place / "photos" / "coffee.png").matches[0].image == "coffee.png"


def test_removed_photos_are_back_if_the_list_of_them_is_lost(place):
    opened(place).remove(["coins.png", "coffee.png"])
    (place / "photos" / "coffee.png").unlink()
    flip(place / "x.udq" / "removed-000001.npy")
    with pytest.raises(CollectionError):
        _ = opened(place).names
    [damage] = verify(place / "x.udq")
    assert damage.affects == "which 2 photos were removed"
    done = repair(place / "x.udq", device="cpu")

    assert done.back == 2
    assert verify(place / "x.udq") == []
    assert len(opened(place)) == 4


def test_the_command_prints_the_damage_and_what_was_repaired(udq, place):
    [segment] = opened(place).segments
    flip(place / "x.udq" / segment.folder / "codes.npy")
    code, out, err = udq("verify", place / "x.udq")
    assert code == 1
    damage = f"{segment.folder}/codes.npy: damaged (checksum differs)"
    assert out.startswith(f"{damage}; affects 4 photos, 'astronaut.png' first")
    assert err.count("\n") == 1
    shutil.move(place / "photos" / "coins.png", place / "coins.png")
    code, out, err = udq("verify", place / "x.udq", "--repair", "--device", "cpu")
    assert (code, "whole again; 3 photos encoded again, 1 dropped" in out) == (0, True)
    assert "udq: dropped: coins.png" in err
    code, out, _ = udq("verify", place / "x.udq", "--repair", "--json")
    assert (code, json.loads(out)["damage"]) == (0, [])


def test_a_damaged_model_is_not_repaired_while_all_photos_are_missing(place):
    path = place / "x.udq"
    flip(path / opened(place).manifest.document["model"]["file"])
    (place / "photos").rename(place / "away")
    before = manifests.read_manifest(path)
    with pytest.raises(CollectionError, match="none of its photos exists to retrain it on; put them back"):
        repair(path, device="cpu")
    assert manifests.read_manifest(path) == before
    (place / "away").rename(place / "photos")
    assert len(repair(path, device="cpu").restored) == 4
    assert verify(path) == []


def test_a_repair_that_is_interrupted_in_retraining_resumes(place, monkeypatch):
    path = place / "x.udq"
    flip(path / opened(place).manifest.document["model"]["file"])

    def stop(self, photos, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("udq.store.builder.CollectionBuilder.put_segment", stop)
    with pytest.raises(KeyboardInterrupt):
        repair(path, device="cpu")
    monkeypatch.undo()
    model = (place / ".x.udq.partial" / "model-000002.npz").stat().st_ino
    assert len(repair(path, device="cpu").restored) == 4

    assert (path / "model-000002.npz").stat().st_ino == model
    assert verify(path) == []
    assert sorted(entry.name for entry in place.iterdir()) == ["photos", "x.udq"]


def test_old_versions_of_changed_photos_are_not_back_if_the_list_of_removed_photos_is_lost(place, photos, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 4)  # so that the segment of the old version is not written again
    shutil.copy(photos / "brick.png", place / "photos" / "coins.png")
    before, changes = opened(place).add(place / "photos")
    assert changes.changed == 1
    flip(place / "x.udq" / "removed-000001.npy")
    done = repair(place / "x.udq", device="cpu")

    assert done.back == 0
    assert ids(opened(place)) == ids(before)
    assert answers(opened(place)) == answers(before)


def test_a_damaged_model_is_retrained_although_offsets_are_damaged_and_photos_removed(place):
    path = place / "x.udq"
    after, _ = opened(place).remove(["coins.png"])
    [segment] = after.segments
    flip(path / segment.folder / "offsets.npy", -6)  # the last photo starts beyond the end
    flip(path / after.manifest.document["model"]["file"])
    done = repair(path, device="cpu")

    assert set(done.restored) == {"astronaut.png", "coffee.png", "rocket.png"}
    assert verify(path) == []
    assert set(opened(place).names) == set(done.restored)
