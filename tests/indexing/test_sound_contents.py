"""What no udq writes, with the right checksums: verify finds all that opening refuses, and a repair replaces it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from test_update import answers, ids, opened

from udq import Collection
from udq.common import files, npz
from udq.errors import CollectionError
from udq.indexing.repair import repair
from udq.indexing.verify import verify
from udq.store import manifest as manifests
from udq.store.layout import COPY, MANIFEST

FOUR = {"astronaut.png", "coffee.png", "coins.png", "rocket.png"}


def rewrite(path, name, change):
    """Change a file, and correct all checksums, as an archive of photos or an attacker can."""
    data = (path / name).read_bytes()
    if name.endswith(".json"):
        data = json.dumps(change(json.loads(data))).encode()
    elif name.endswith(".npz"):
        data = npz.to_bytes(change(npz.from_bytes(data)))
    else:
        data = files.npy(change(npz.read_array(io.BytesIO(data))))
    (path / name).write_bytes(data)
    edit(path, lambda document: manifests.facts_of(document)[name].update(bytes=len(data), sha256=files.checksum(data)))


def edit(path, change):
    document = json.loads((path / MANIFEST).read_bytes())
    change(document)
    document["sha256"] = manifests.document_sum(document)
    for name in (MANIFEST, COPY):
        (path / name).write_bytes(manifests.dump(document))


def with_last(key, value):
    def change(listed):
        listed[key][-1] = value
        return listed

    return change


def with_ids(*numbers):
    def change(photos):
        photos = photos.copy()
        photos["id"] = numbers
        return photos

    return change


def damaged(path):
    """The one damaged file, which is one that a search refuses too, and its reason."""
    with pytest.raises(CollectionError) as refused:
        answers(Collection.open(path, device="cpu"))
    assert "\n" not in str(refused.value)
    [damage] = verify(path)
    assert f"{damage.file}: damaged ({damage.reason})" in str(refused.value)
    return damage.file, damage.reason


def test_a_name_with_a_nul_is_found_and_dropped(place):
    path = place / "x.udq"
    [segment] = opened(place).segments
    rewrite(path, f"{segment.folder}/images.json", with_last("names", "rocket\0.png"))

    assert damaged(path) == (f"{segment.folder}/images.json", "expected names, folders and sizes of photos")
    done = repair(path, device="cpu")
    assert (set(done.restored), done.nameless) == (FOUR - {"rocket.png"}, 1)
    assert verify(path) == []
    assert set(opened(place).names) == FOUR - {"rocket.png"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("codes.npy", lambda codes: codes[:-1]),
        ("codes.npy", lambda codes: codes.astype("<u2")),
        ("boxes.npy", lambda boxes: boxes.astype("<f4")),
        ("offsets.npy", lambda offsets: offsets[::-1].copy()),
        ("offsets.npy", lambda offsets: offsets.astype("<i4")),
    ],
)
def test_arrays_that_no_udq_writes_are_found_and_encoded_again(place, name, change):
    path = place / "x.udq"
    before, numbers = answers(opened(place)), ids(opened(place))
    [segment] = opened(place).segments
    rewrite(path, f"{segment.folder}/{name}", change)

    assert damaged(path)[0] == f"{segment.folder}/{name}"
    assert set(repair(path, device="cpu").restored) == FOUR
    assert verify(path) == []
    assert ids(opened(place)) == numbers
    assert answers(opened(place)) == before


@pytest.mark.parametrize("numbers", [(0, 1, 1, 2), (3, 2, 1, 0), (0, 1, 2, 4), (-4, -3, -2, -1)])
def test_ids_that_no_udq_writes_are_found_and_replaced(place, numbers):
    path = place / "x.udq"
    [segment] = opened(place).segments
    rewrite(path, f"{segment.folder}/photos.npy", with_ids(*numbers))

    assert damaged(path)[0] == f"{segment.folder}/photos.npy"
    assert set(repair(path, device="cpu").restored) == FOUR
    assert verify(path) == []
    assert sorted(ids(opened(place)).values()) == [4, 5, 6, 7]


def test_ids_of_photos_in_another_segment_are_found_and_replaced(place, photos, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 4)
    path = place / "x.udq"
    grown, _ = opened(place).add([photos / "chelsea.png", photos / "page.png"])
    folder = grown.segments[1].folder
    rewrite(path, f"{folder}/photos.npy", with_ids(2, 3))

    assert damaged(path) == (f"{folder}/photos.npy", "its ids do not follow those of the photos before")
    with pytest.raises(CollectionError, match="its ids do not follow"):  # also without reading the codes
        Collection.retrain(path, device="cpu")
    assert set(repair(path, device="cpu").restored) == {"chelsea.png", "page.png"}
    assert verify(path) == []
    assert sorted(ids(opened(place)).values()) == [0, 1, 2, 3, 6, 7]


def test_removed_photos_that_no_segment_contains_are_found_and_forgotten(place):
    path = place / "x.udq"
    opened(place).remove(["coffee.png"])
    rewrite(path, "removed-000001.npy", lambda numbers: np.array([77], np.int64))

    assert damaged(path) == ("removed-000001.npy", "1 removed photos, of which the segments contain 0")
    repair(path, device="cpu")
    assert verify(path) == []
    assert set(opened(place).names) == FOUR


@pytest.mark.parametrize("part", ["residuals", "codebooks"])
def test_a_model_that_no_udq_writes_is_found_and_replaced(place, part):
    path = place / "x.udq"
    name = opened(place).manifest.document["model"]["file"]

    def change(arrays):
        if part == "codebooks":
            return arrays | {key: arrays[key][:, :-1].copy() for key in ("residuals", "codebooks")}
        return arrays | {"residuals": -arrays["residuals"]}

    rewrite(path, name, change)
    assert damaged(path)[0] == name
    assert set(repair(path, device="cpu").restored) == FOUR
    assert verify(path) == []
    assert set(opened(place).names) == FOUR


def test_a_manifest_that_no_udq_writes_has_no_repair_and_says_what_to_do(place):
    path = place / "x.udq"
    edit(path, lambda document: document.update(segments=document["segments"] * 2))
    with pytest.raises(CollectionError, match="is listed twice"):
        Collection.open(path)
    for work in (verify, repair):
        with pytest.raises(CollectionError, match="both damaged or missing; restore the collection from a backup, or"):
            work(path)


def test_a_copy_whose_files_are_gone_is_found_and_replaced(place):
    path = place / "x.udq"
    document = json.loads((path / COPY).read_bytes())
    document["segments"][0]["folder"] = "segments/000777"
    document["sha256"] = manifests.document_sum(document)
    (path / COPY).write_bytes(manifests.dump(document))
    assert [damage.file for damage in verify(path)] == [COPY]
    repair(path, device="cpu")
    assert verify(path) == []


def test_info_shows_a_history_of_training_that_is_not_finite(place, udq):
    rounds = [{"iteration": 0, "separability": [float("nan")], "discriminability": [1.0], "quantization_error": 1e999}]
    for training in ({"rounds": rounds, "kept": 1, "stopped": None}, {"rounds": 1}):
        edit(place / "x.udq", lambda document, training=training: document.update(training=training))
        assert verify(place / "x.udq") == []
        code, out, _ = udq("info", place / "x.udq", "--json")
        assert code == 0
        shown = json.loads(out, parse_constant=lambda name: pytest.fail(name))["training"]
        assert shown is None or shown["rounds"][0]["separability"] == [None]
        assert udq("info", place / "x.udq")[0] == 0
