"""Changes of a collection: photos are added, changed, moved and removed, and all others stay as they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from configs import QUICK
from PIL import Image

from udq import Collection
from udq.common import files
from udq.errors import DiskError, InputError, UnknownPhotoError
from udq.indexing import update
from udq.photos.source import Source
from udq.search.ranking import ranking_by_feature
from udq.store import manifest as manifests
from udq.store.builder import CollectionBuilder
from udq.store.transaction import Transaction

FIRST, LATER = ("astronaut.png", "coffee.png", "coins.png", "rocket.png"), ("chelsea.png", "page.png")  # conftest


def opened(place):
    return Collection.open(place / "x.udq", device="cpu")


def answers(collection):
    """Distance of every photo to two made-up queries, by name."""
    found = []
    for seed in (0, 1):
        query = np.random.default_rng(seed).standard_normal(1280).astype(np.float32)
        ranking = ranking_by_feature(collection.database, query / np.linalg.norm(query))
        assert sorted(ranking.order.tolist()) == list(range(len(collection)))
        found.append(dict(zip(collection.names, ranking.distance.tolist(), strict=True)))
    return found


def ids(collection):
    return {image.name: image.id for image in collection.images}


def test_photos_that_are_added_are_found_and_the_others_keep_their_ids_and_distances(place, photos):
    before = opened(place)
    after, changes = before.add([photos / name for name in LATER])

    assert (changes.added, changes.same, changes.broken) == (2, 0, ())
    assert set(after.names) == {*FIRST, *LATER}
    assert ids(before).items() <= ids(after).items()
    assert {ids(after)[name] for name in LATER} == {4, 5}
    for old, new in zip(answers(before), answers(after), strict=True):
        assert old.items() <= new.items()
    assert after.search(photos / "page.png", k=1).matches[0].image == "page.png"
    assert len(before) == len(answers(before)[0]) == 4  # a collection that is open does not change
    assert after.verify() == []


def test_added_photos_are_encoded_as_in_a_build(place, photos):
    after, _ = opened(place).add([photos / name for name in LATER])
    source = {image.name: image.path for image in after.images}
    [photo] = after.extractor.extract([Source("page.png", source["page.png"])])
    by_itself = after.model.encode(photo.features)
    [segment] = after.segments

    assert (segment.indexed(after.names.index("page.png")).codes == by_itself.values).all()


def test_photos_that_did_not_change_are_not_encoded_again(place):
    before = manifests.read_manifest(place / "x.udq")
    after, changes = opened(place).add(place / "photos")

    assert (changes.added, changes.same) == (0, 4)
    assert manifests.read_manifest(place / "x.udq") == before
    os.utime(place / "photos" / "coins.png", (1, 1))  # another time, the same bytes
    after, changes = opened(place).add(place / "photos")
    assert (changes.moved, changes.same) == (1, 3)
    assert opened(place).add(place / "photos")[1].same == 4
    assert ids(after) == ids(opened(place))


def test_mirroring_a_folder_adds_changes_renames_and_removes_photos(place, photos):
    before, folder = opened(place), place / "photos"
    (folder / "coins.png").unlink()
    (folder / "below").mkdir()
    (folder / "coffee.png").rename(folder / "below" / "cup.png")
    shutil.copy(photos / "page.png", folder / "rocket.png")
    shutil.copy(photos / "chelsea.png", folder)
    after, changes = before.add(folder, sync=True)

    assert (changes.added, changes.changed, changes.moved, changes.removed, changes.same) == (1, 1, 1, 1, 1)
    assert set(after.names) == {"astronaut.png", "below/cup.png", "rocket.png", "chelsea.png"}
    assert ids(after)["below/cup.png"] == ids(before)["coffee.png"]
    assert ids(after)["rocket.png"] not in ids(before).values()
    for old, new in zip(answers(before), answers(after), strict=True):
        assert new["below/cup.png"] == old["coffee.png"]
        assert new["astronaut.png"] == old["astronaut.png"]
    assert after.search(photos / "page.png", k=1).matches[0].image == "rocket.png"
    assert after.search(folder / "below" / "cup.png", k=1).matches[0].image == "below/cup.png"
    assert after.verify() == []
    assert before.add(folder, sync=True)[1].same == 4


def test_mirroring_another_folder_removes_nothing(place, photos):
    (place / "photos" / "new.png").write_bytes(b"no photo")
    opened(place).add(place / "photos")
    after, changes = opened(place).add(photos / "views", sync=True)

    assert (changes.added, changes.removed, len(after)) == (2, 0, 6)
    assert [entry["image"] for entry in after.broken] == ["new.png"]  # an unreadable photo is not forgotten either
    (place / "photos" / "coins.png").unlink()
    (place / "photos" / "new.png").unlink()
    after, changes = after.add(place / "photos", sync=True)
    assert (changes.removed, len(after), after.broken) == (1, 5, [])


@pytest.mark.parametrize("state", ["no bytes", "damaged", "links to a disk that is away"])
@pytest.mark.parametrize("sync", [True, False])
def test_photos_whose_files_cannot_be_read_any_more_keep_their_codes_and_ids(place, photos, udq, state, sync):
    before = opened(place)
    for file in sorted((place / "photos").iterdir()):
        data = file.read_bytes()
        file.unlink()
        if state.startswith("links"):
            file.symlink_to(place / "away" / file.name)
        else:
            file.write_bytes(b"" if state == "no bytes" else data[:200])
    code, out, err = udq("add", place / "x.udq", place / "photos", *(["--sync"] if sync else []), "--device", "cpu")
    after = opened(place)

    assert (code, "Traceback" in err) == (0, False)
    assert "0 removed" in out or "removed" not in out
    assert ids(after) == ids(before)
    assert sorted(entry["image"] for entry in after.broken) == sorted(before.names)
    assert answers(after)[0] == answers(before)[0]
    assert after.verify() == []
    shutil.rmtree(place / "photos")
    shutil.copytree(photos, place / "photos")
    for file in (place / "photos").iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name not in before.names:
            file.unlink()
    again, changes = after.add(place / "photos", sync=sync)
    assert (changes.removed, again.broken, ids(again)) == (0, [], ids(before))


def test_a_pattern_that_leaves_no_photo_of_a_mirrored_folder_is_asked_about(place, udq):
    code, _, err = udq("add", place / "x.udq", place / "photos", "--sync", "--exclude", "*", "--device", "cpu")
    assert code == 1
    assert "which has none of them any more" in err.splitlines()[-1]
    assert len(opened(place)) == 4
    assert udq("add", place / "x.udq", place / "photos", "--sync", "--exclude", "*", "--yes")[0] == 0
    assert len(opened(place)) == 0


@pytest.mark.parametrize("state", ["empty", "away", "another disk"])
def test_a_mirrored_folder_that_lost_all_photos_at_once_is_refused(place, photos, udq, state):
    (place / "photos").rename(place / "elsewhere")
    if state != "away":
        (place / "photos").mkdir()
    if state == "another disk":
        shutil.copy(photos / "page.png", place / "photos")
    words = ("add", place / "x.udq", place / "photos", "--sync", "--device", "cpu")
    code, out, err = udq(*words)

    assert (code, out) == (1, "")
    line = err.splitlines()[-1]  # after the progress bar
    assert line.startswith(f"udq: {place}/photos: the collection has 4 photos of this folder, which ")
    assert f"udq relocate {place}/x.udq {place}/photos NEW" in line
    assert len(opened(place)) == 4
    dry = json.loads(udq(*words, "--dry-run", "--json")[1])
    assert (dry["removed"], dry["emptied"]) == (4, {f"{place.resolve()}/photos/": 4})
    code, out, _ = udq(*words, "--yes")
    assert (code, "4 removed" in out, len(opened(place))) == (0, True, state == "another disk")


def test_a_folder_below_that_emptied_at_once_is_asked_about_on_a_terminal(place, photos, udq, monkeypatch):
    (place / "photos" / "disk").mkdir()
    shutil.copy(photos / "page.png", place / "photos" / "disk")
    opened(place).add(place / "photos")
    (place / "photos" / "disk" / "page.png").unlink()
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked = []
    replies = iter([False, None, True])

    def confirm(text, **_):
        asked.append(text)
        if (reply := next(replies)) is None:
            raise typer.Abort  # Ctrl-C
        return reply

    monkeypatch.setattr("typer.confirm", confirm)
    words = ("add", place / "x.udq", place / "photos", "--sync", "--device", "cpu")

    code, _, err = udq(*words)
    assert (code, len(opened(place))) == (1, 5)
    assert f"{place}/photos/disk: the collection has 1 photo of this folder" in err
    code, _, err = udq(*words)
    assert (code, err.splitlines()[-1], len(opened(place))) == (1, "udq: nothing was changed", 5)
    assert udq(*words)[0] == 0
    assert (len(opened(place)), len(asked)) == (4, 3)


def test_a_photo_of_a_folder_that_is_away_is_not_replaced_by_one_of_its_name(place, photos, udq):
    (place / "other").mkdir()
    shutil.copy(photos / "page.png", place / "other" / "coins.png")
    (place / "photos").rename(place / "unmounted")
    before = opened(place)
    for option in ((), ("--sync",)):
        code, _, err = udq("add", place / "x.udq", place / "other", *option)
        assert (code, "Traceback" in err) == (2, False)
        assert err.splitlines()[-1].startswith("udq: two photos would be named 'coins.png'")
        assert f"udq relocate COLLECTION {place}/photos/ {place}/other/" in err
    assert ids(opened(place)) == ids(before)


def test_a_folder_below_the_indexed_one_is_mirrored_under_the_names_it_has(place, photos):
    below = place / "photos" / "views"
    shutil.copytree(photos / "views", below)
    before, _ = opened(place).add(place / "photos")
    (below / "motorcycle_left.png").unlink()
    after, changes = before.add(below, sync=True)

    assert (changes.same, changes.removed, changes.added) == (1, 1, 0)
    assert set(after.names) == {*FIRST, "views/motorcycle_right.png"}


def test_excluded_folders_are_left_out_of_later_additions_too(place, photos, udq):
    for name in ("@eaDir/coffee.png", "thumbs/a.png", "deep/old/b_small.png", "deep/c.png"):
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "page.png", place / "photos" / name)
    (place / "photos" / "linked").symlink_to(photos / "views")
    (place / "photos" / "notes.txt").touch()
    excludes = ("--exclude", "thumbs", "--exclude", "deep/*_small.png")
    built = ("index", place / "photos", "-o", place / "y.udq", "--no-train", "--device", "cpu", "--json")
    facts = json.loads(udq(*built, *excludes)[1])
    counts = {"passed_over": 1, "linked_folders": 1, "excluded_folders": 2, "excluded_photos": 1}

    assert facts["images"] == 5
    assert {name: facts[name] for name in counts} == counts
    assert facts["exclude"] == ["thumbs", "deep/*_small.png"]
    code, out, _ = udq("add", place / "y.udq", place / "photos", "--sync", "--device", "cpu")
    assert (code, "5 unchanged" in out) == (0, True)
    assert "passed over: 1 other file, 1 linked folder, 2 excluded folders, 1 excluded photo" in out
    added = json.loads(udq("add", place / "y.udq", place / "photos", "--sync", "--exclude", "deep", "--json")[1])
    assert (added["removed"], added["excluded_folders"]) == (1, 3)
    code, _, err = udq("add", place / "y.udq", place / "photos", "--exclude", "")
    assert (code, len(err.splitlines())) == (2, 1)


def test_another_photo_of_the_same_name_is_refused(place, photos):
    (place / "other").mkdir()
    shutil.copy(photos / "page.png", place / "other" / "coins.png")
    with pytest.raises(InputError, match=r"two photos would be named 'coins.png': .*which the collection contains"):
        opened(place).add(place / "other")
    assert ids(opened(place))["coins.png"] == 2


def test_a_photo_that_cannot_be_read_is_listed_until_it_can(place, photos):
    (place / "photos" / "new.png").write_bytes(b"no photo")
    after, changes = opened(place).add(place / "photos")

    assert [entry["image"] for entry in changes.broken] == ["new.png"] == [entry["image"] for entry in after.broken]
    assert changes.added == 0
    again, changes = opened(place).add(place / "photos")
    assert len(again.broken) == len(changes.broken) == 1  # not twice
    shutil.copy(photos / "page.png", place / "photos" / "new.png")
    whole, changes = opened(place).add(place / "photos")
    assert (changes.added, whole.broken) == (1, [])
    (place / "photos" / "new.png").write_bytes(b"no photo")
    broken, changes = whole.add(place / "photos")
    assert (changes.removed, changes.changed, len(broken)) == (0, 0, 5)  # absence is not deletion
    (place / "photos" / "new.png").unlink()
    assert broken.add(place / "photos", sync=True)[0].broken == []


def test_removed_photos_are_never_found_again(place, photos):
    before = opened(place)
    after, changes = before.remove(["coffee.png"])

    assert (changes.removed, len(after)) == (1, 3)
    assert ids(after) == {name: number for name, number in ids(before).items() if name != "coffee.png"}
    for old, new in zip(answers(before), answers(after), strict=True):
        assert new == {name: distance for name, distance in old.items() if name != "coffee.png"}
    boxes = [before.search(photos / "rocket.png").matches, after.search(photos / "rocket.png").matches]
    places = [{match.image: match.box for match in matches} for matches in boxes]
    assert places[1] == {name: box for name, box in places[0].items() if name != "coffee.png"}
    assert after.regions == before.regions - (before.segments[0].offsets[2] - before.segments[0].offsets[1])
    again, _ = after.add(place / "photos")
    assert ids(again)["coffee.png"] == 4  # ids are never given twice
    assert after.verify() == again.verify() == []


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["c*.png"], {"astronaut.png", "rocket.png"}),
        (["rocket.png", "astronaut.png"], {"coffee.png", "coins.png"}),
        (["*"], set()),
        (["below/"], set(FIRST)),
    ],
)
def test_patterns_and_folders_name_photos(place, photos, names, left):
    (place / "photos" / "below").mkdir()
    shutil.copy(photos / "page.png", place / "photos" / "below")
    opened(place).add(place / "photos")
    after, _ = opened(place).remove(names)

    assert set(after.names) - {"below/page.png"} == left
    assert len(answers(after)[0]) == len(after)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take both forms for one name")
@pytest.mark.parametrize("typed", ["caf\u00e9.png", "caf\u00e9*", "caf\u00e9/", "cafe\u0301.png"])
def test_names_in_another_unicode_form_are_found(place, photos, typed):
    (place / "photos" / "cafe\u0301").mkdir()
    shutil.copy(photos / "page.png", place / "photos" / "cafe\u0301")
    shutil.copy(photos / "chelsea.png", place / "photos" / "cafe\u0301.png")
    before, changes = opened(place).add(place / "photos")
    assert changes.added == 2
    after, _ = before.remove(typed)
    assert (
        set(before.names) - set(after.names)
        == {
            "caf\u00e9.png": {"cafe\u0301.png"},
            "cafe\u0301.png": {"cafe\u0301.png"},
            "caf\u00e9*": {"cafe\u0301.png", "cafe\u0301/page.png"},
            "caf\u00e9/": {"cafe\u0301/page.png"},
        }[typed]
    )
    changes = after.add(place / "photos" / "caf\u00e9")[1]  # a folder in another form
    assert changes.added + changes.same == 1


def test_an_unknown_name_removes_nothing(place):
    with pytest.raises(InputError, match=r"'coffee': no photo of .* has this name; .* nothing was removed"):
        opened(place).remove(["rocket.png", "coffee"])
    assert len(opened(place)) == 4


def test_compacting_changes_no_result_and_frees_disk_space(place, photos, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 2)
    whole, _ = opened(place).add(photos / "views")
    before, _ = whole.remove(["coffee.png"])
    assert len(before.segments) == 2
    after = before.compact()

    assert answers(after) == answers(before)
    assert ids(after) == ids(before)
    assert [len(segment.images) for segment in after.segments] == [2, 2, 1]
    assert after.info()["removed"] == 0
    assert after.verify() == []
    assert after.compact() is after  # nothing to do
    emptied, _ = after.remove(["*"])
    assert len(emptied.compact()) == emptied.info()["regions"] == 0
    assert emptied.compact().search(photos / "page.png").matches == ()


def test_full_segments_are_not_written_again_and_the_last_one_grows(place, photos, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 6)
    monkeypatch.setattr(update, "_BATCH", 1)
    first, _ = opened(place).add([photos / name for name in LATER])
    assert [len(segment.images) for segment in first.segments] == [6]
    second, _ = first.add(photos / "views")

    assert [len(segment.images) for segment in second.segments] == [6, 2]
    assert second.segments[0].folder == first.segments[0].folder
    assert [image.id for image in second.images] == list(range(8))


def test_an_opened_collection_that_was_changed_twice_reads_the_newest_state(place, photos):
    late = opened(place)
    opened(place).add([photos / "page.png"])
    opened(place).compact()
    opened(place).remove(["coins.png"])
    opened(place).add([photos / "chelsea.png"])

    assert set(late.names) == {"astronaut.png", "coffee.png", "rocket.png", "page.png", "chelsea.png"}
    assert len(answers(late)[0]) == len(late) == 5
    assert late.refreshed() is late


def test_only_one_process_changes_a_collection_and_others_name_it(place, photos):
    with Transaction(place / "x.udq"), pytest.raises(InputError, match=rf"another udq \(process {os.getpid()} on "):
        opened(place).remove(["coins.png"])
    opened(place).remove(["coins.png"])
    assert not (place / "x.udq" / "owner.json").exists()


def test_an_interrupted_retraining_is_not_discarded(place):
    manifest = manifests.read_manifest(place / "x.udq")
    with CollectionBuilder(place / "x.udq", fingerprint="one", replaces=manifest) as writer:
        writer.put_model(opened(place).model)
    with pytest.raises(
        InputError, match=r"interrupted 'udq retrain' can be resumed from .*; run it again to finish it"
    ):
        opened(place).remove(["coins.png"])
    shutil.rmtree(place / ".x.udq.partial")
    assert len(opened(place).remove(["coins.png"])[0]) == 3


def test_retraining_keeps_ids(place, photos):
    opened(place).remove(["coffee.png"])
    before, _ = opened(place).add([photos / "page.png"])
    after = Collection.retrain(place / "x.udq", config=QUICK, device="cpu")

    assert ids(after) == ids(before)
    assert after.info()["removed"] == 0
    assert ids(after.add([photos / "chelsea.png"])[0])["chelsea.png"] == 5


@pytest.mark.parametrize("version", [2, 3])
def test_a_collection_of_an_older_udq_opens_and_can_be_changed(photos, tmp_path, version):
    """Each was built by the last version that wrote its format; the files of its photos do not exist any more."""
    path = shutil.copytree(Path(__file__).parents[1] / "collections" / f"format-{version}", tmp_path / "x.udq")
    old = Collection.open(path, device="cpu")
    assert (old.names, old.verify()) == (["coffee.png", "coins.png", "rocket.png"], [])
    assert old.info()["format_version"] == version
    Image.open(photos / "coins.png").resize((300, 200)).save(tmp_path / "query.png")
    assert old.search(tmp_path / "query.png").matches[0].image == "coins.png"
    new, _ = old.add([photos / "page.png"])

    assert ids(new) == ids(old) | {"page.png": {2: 3, 3: 4}[version]}  # the latter once contained a page
    for before, after in zip(answers(old), answers(new), strict=True):
        assert before.items() <= after.items()
    assert new.info()["format_version"] == manifests.VERSION
    assert new.remove(["coffee.png"])[0].compact().verify() == []


def test_a_killed_addition_keeps_what_was_committed_and_resumes(place, photos, tmp_path):
    script = "from udq.indexing import update; update._BATCH = 1; from udq.cli.main import main; main()"
    words = [sys.executable, "-c", script, "add", str(place / "x.udq"), str(photos)]
    shutil.rmtree(place / "photos")  # so that no photo of another folder has the same name
    opened(place).remove(["*"])
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while len(opened(place)) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = opened(place)
    assert 2 <= len(half) < 12
    assert half.verify() == []
    done = json.loads(subprocess.run([*words, "--json"], capture_output=True, check=True).stdout)

    assert done["images"] == 12
    assert done["added"] + done["same"] == 12
    assert done["same"] >= len(half)
    assert ids(half).items() <= ids(opened(place)).items()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_not_valid_unicode_work_everywhere(udq, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos / "coffee.png", folder / name)
    shutil.copy(photos / "coins.png", folder)
    (folder / os.fsdecode(b"br\xfbl\xe9e.png")).write_bytes(b"no photo")
    assert udq("index", folder, "-o", tmp_path / "x.udq", "--no-train", "--device", "cpu")[0] == 0
    code, out, _ = udq("search", tmp_path / "x.udq", folder / name)
    assert (code, out.splitlines()[1].endswith("caf\\xe9.png")) == (0, True)
    matches = json.loads(udq("search", tmp_path / "x.udq", folder / name, "--json")[1])["matches"]
    assert matches[0]["image"] == name
    (folder / name).rename(folder / os.fsdecode(b"th\xe9.png"))
    assert udq("add", tmp_path / "x.udq", folder, "--sync")[1].count("1 moved, 1 unchanged") == 1
    assert udq("remove", tmp_path / "x.udq", os.fsdecode(b"th\xe9.png"))[0] == 0
    assert udq("compact", tmp_path / "x.udq")[0] == udq("verify", tmp_path / "x.udq")[0] == 0
    assert "br\\xfbl\\xe9e.png" in udq("info", tmp_path / "x.udq")[1]


def test_a_changed_photo_replaces_one_whose_segment_became_full_in_the_same_addition(place, photos, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 6)
    monkeypatch.setattr(update, "_BATCH", 1)
    for name in LATER:
        shutil.copy(photos / name, place / "photos")
    shutil.copy(photos / "brick.png", place / "photos" / "coins.png")
    after, changes = opened(place).add(place / "photos", sync=True)

    assert (changes.added, changes.changed) == (2, 1)
    assert sorted(after.names) == sorted({*FIRST, *LATER})
    assert after.info()["removed"] == 1
    assert after.search(photos / "brick.png", k=1).matches[0].image == "coins.png"


def test_the_folder_of_a_retraining_that_was_killed_after_its_last_step_is_deleted(place, monkeypatch):
    monkeypatch.setattr(CollectionBuilder, "abandon", lambda self: None)
    Collection.retrain(place / "x.udq", config=QUICK, device="cpu")
    monkeypatch.undo()
    assert (place / ".x.udq.partial").exists()
    assert len(opened(place).remove(["coins.png"])[0]) == 3
    assert not (place / ".x.udq.partial").exists()


def test_a_collection_without_photos_cannot_be_trained(place):
    opened(place).remove(["*"])
    with pytest.raises(InputError, match="contains no photos to train on; add some first"):
        Collection.retrain(place / "x.udq", device="cpu")


def test_a_failed_change_leaves_no_files(place, photos, monkeypatch):
    before = sorted(file for file in (place / "x.udq").rglob("*"))
    write_new = files.write_new

    def full(path, data):
        if path.name == "photos.npy":
            raise DiskError("no room")
        return write_new(path, data)

    monkeypatch.setattr("udq.store.segments.write_new", full)
    with pytest.raises(DiskError):
        opened(place).add([photos / "page.png"])
    assert sorted(file for file in (place / "x.udq").rglob("*")) == before


def test_exchanged_names_are_recognised(place):
    folder, before = place / "photos", opened(place)
    (folder / "rocket.png").rename(folder / "zz.png")
    (folder / "coins.png").rename(folder / "rocket.png")
    (folder / "coffee.png").rename(folder / "coins.png")
    after, changes = before.add(folder, sync=True)

    assert (changes.moved, changes.added, changes.changed, changes.removed) == (3, 0, 0, 0)
    old, new = ids(before), ids(after)
    assert [new[name] for name in ("zz.png", "rocket.png", "coins.png")] == [
        old[name] for name in ("rocket.png", "coins.png", "coffee.png")
    ]
    assert after.search(folder / "rocket.png", k=1).matches[0].image == "rocket.png"


def test_a_copy_in_another_folder_does_not_move_the_photos(place):
    shutil.copytree(place / "photos", place / "backup")
    assert opened(place).add(place / "backup")[1].same == 4
    assert {image.root for image in opened(place).images} == {f"{(place / 'photos').as_posix()}/"}


def test_a_dry_run_prints_the_changes_and_makes_none(udq, place, photos):
    (place / "photos" / "coins.png").unlink()
    shutil.copy(photos / "page.png", place / "photos")
    before = manifests.read_manifest(place / "x.udq")
    code, out, _ = udq("add", place / "x.udq", place / "photos", "--sync", "--dry-run")
    assert (code, "1 added, 1 removed, 3 unchanged" in out) == (0, True)
    assert manifests.read_manifest(place / "x.udq") == before


def test_a_repeated_addition_changes_nothing(place):
    (place / "photos" / "notes.txt").touch()
    (place / "photos" / "broken.png").write_bytes(b"no photo")
    opened(place).add(place / "photos")
    before = manifests.read_manifest(place / "x.udq")
    assert opened(place).add(place / "photos")[1].broken
    assert manifests.read_manifest(place / "x.udq") == before
    (place / "photos" / "broken.png").unlink()
    assert opened(place).remove("broken.png")[0].broken == []


def test_photos_in_a_folder_that_cannot_be_listed_are_not_removed(place, photos, monkeypatch):
    (place / "photos" / "closed").mkdir()
    shutil.copy(photos / "page.png", place / "photos" / "closed")
    opened(place).add(place / "photos")
    scandir = os.scandir

    def refusing(path):
        if Path(os.fsdecode(path)).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    after, changes = opened(place).add(place / "photos", sync=True)
    assert (changes.removed, len(changes.broken), "closed/page.png" in after.names) == (0, 1, True)


def test_a_reader_encodes_queries_with_the_network_of_the_state_that_it_reads(place, photos):
    early, late, query = opened(place), opened(place), photos / "coffee.png"
    before = early.search(query).matches
    smaller = early.config.replace({"images": {"shorter": 200, "longer": 300}})
    Collection.retrain(place / "x.udq", config=smaller, device="cpu")
    opened(place).add([photos / "page.png"])
    opened(place).remove(["coins.png"])

    now = opened(place).search(query).matches
    assert now != before
    assert early.search(query).matches == before
    assert early.refreshed().search(query).matches == late.search(query).matches == now


def test_ids_of_format_2_outlive_its_changes(tmp_path):
    path = shutil.copytree(Path(__file__).parents[1] / "collections" / "format-2", tmp_path / "x.udq")
    new, _ = Collection.open(path, device="cpu").remove(["coffee.png"])
    assert manifests.read_manifest(path).segments[0]["first_id"] == 0
    assert ids(new) == {"coins.png": 1, "rocket.png": 2}


def test_a_photo_named_like_a_pattern_is_removed_alone(place, photos):
    for name in ("*.png", "?????.png", "cup[1].png", "cup1.png"):
        shutil.copy(photos / "page.png", place / "photos" / name)
    before, _ = opened(place).add(place / "photos")
    for name in ("*.png", "?????.png", "cup[1].png"):
        after, changes = opened(place).remove(name)
        assert (changes.removed, name in after.names) == (1, False)

    assert len(after) == len(before) - 3
    # A name in brackets that is gone is no class of characters.
    with pytest.raises(InputError, match=r"'cup\[1\].png': no photo of .* has this name"):
        after.remove("cup[1].png")


def test_photos_are_removed_by_id_once(place, photos):
    shutil.copy(photos / "page.png", place / "photos" / "*.png")
    before, _ = opened(place).add(place / "photos")
    number = ids(before)["*.png"]
    after, changes = before.remove_ids(number)
    assert (changes.removed, changes.same, set(after.names)) == (1, 4, set(FIRST))
    for again in (number, [ids(after)["coffee.png"], number]):
        with pytest.raises(UnknownPhotoError, match=rf"{number}: .* has no photo with this id.*nothing was removed"):
            before.remove_ids(again)

    assert set(opened(place).names) == set(FIRST)
    rest, changes = after.remove_ids(ids(after)[name] for name in ("coins.png", "coffee.png"))
    assert (changes.removed, set(rest.names)) == (2, {"astronaut.png", "rocket.png"})


def test_a_photo_is_removed_by_the_name_that_is_printed(place, photos):
    names = ["a\x1b[31mred.png", "b\u0080.png", os.fsdecode(b"b\x80.png"), r"c\x1b.png", "c\x1b.png"]
    for name in names:
        shutil.copy(photos / "chelsea.png", place / "photos" / name)
    collection, _ = opened(place).add([place / "photos"])

    with pytest.raises(InputError, match=r"'b\\x80.png': 2 photos have names that are printed so"):
        collection.remove([r"b\x80.png"])
    collection, changes = collection.remove([r"a\x1b[31mred.png", r"c\x1b.png"])
    assert changes.removed == 2
    assert set(names) & set(collection.names) == {names[1], names[2], names[4]}
