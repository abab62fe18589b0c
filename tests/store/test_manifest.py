"""The files of a collection: what is written can be read again, and damage is an error."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.common.files import checksum, npy
from udq.config import CODEWORDS, SUBSPACES, IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.indexing.verify import verify
from udq.keypoints.codebook import NONE
from udq.photos.source import Content
from udq.quantization.head import Head, Layer
from udq.quantization.model import Model
from udq.quantization.quantizer import Quantizer
from udq.store import builder, segments
from udq.store import manifest as manifests
from udq.types import Codes


def small_model(subspaces=4, codewords=32):
    rng = np.random.default_rng(0)
    numbers = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return Model(
        Head((Layer(numbers(8, 10), numbers(8)),)),
        Quantizer(numbers(8, 8), numbers(subspaces, codewords, 8 // subspaces), numbers(subspaces, codewords) ** 2),
        "made up",
    )


def random_codes(regions, subspaces, codewords, seed=0):
    values = np.random.default_rng(seed).integers(0, codewords, (regions, subspaces))
    return Codes(values.astype(np.uint8 if codewords <= 256 else np.uint16), codewords)


SEGMENTS = [
    (random_codes(5, 4, 32, 1), [2, 3], ["a.jpg", "ä/b c.jpg"]),
    (random_codes(3, 4, 32, 2), [3], ["z.jpg"]),
]


def indexed(codes, counts, names):
    """Photos of 100 x 80 pixels; ids are places in ``SEGMENTS``."""
    first = sum(len(before) for _, _, before in itertools.takewhile(lambda one: one[2] != names, SEGMENTS))
    rows = np.cumsum([0, *counts])
    for i, name in enumerate(names):
        boxes = np.tile(np.array([[0, 0, 100, 80]], np.uint16), (counts[i], 1))
        image = segments.Image(name, "/photos/", 100, 80, first + i)
        content = Content(1000 + i, 10**18 + i, bytes([first + i]) * 16)
        points = np.random.default_rng(first + i).integers(0, 256, (2 + 3 * i, 24), np.uint8)
        yield segments.StoredPhoto(image, content, boxes, codes.values[rows[i] : rows[i + 1]], 0.25, points)


def write(path):
    """A collection of two segments, photos of 100 x 80 pixels."""
    with builder.CollectionBuilder(path, fingerprint="one") as made:
        made.put_model(small_model())
        for codes, counts, names in SEGMENTS:
            made.put_segment(list(indexed(codes, counts, names)), codewords=codes.codewords, done=len(names))
        made.commit(
            IndexConfig(),
            given={"weights": None, "rpn": None},
            broken=[{"image": "x.jpg", "reason": "x.jpg: empty file"}],
            next_id=3,
        )
    return path


def change(path, **entries):
    """Change the manifest and make its checksum fit, as an attacker would."""
    document = json.loads((path / "collection.json").read_text()) | entries
    document["sha256"] = manifests.document_sum(document)
    (path / "collection.json").write_text(json.dumps(document))


def forge(path, name, array):
    """Replace a file of the first segment, with a checksum that fits, as an attacker would."""
    data = npy(array)
    (path / "segments" / "000001" / name).write_bytes(data)
    document = json.loads((path / "collection.json").read_text())
    document["segments"][0]["files"][name] = {"bytes": len(data), "sha256": checksum(data)}
    change(path, segments=document["segments"])


def read(path):
    manifest = manifests.read_manifest(path)
    manifests.read_model(path, manifest)
    return list(segments.read(path, manifest, subspaces=4, codewords=32))


@given(
    regions=st.integers(0, 40),
    subspaces=st.sampled_from(SUBSPACES),
    codewords=st.sampled_from(CODEWORDS),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_codes_are_stored_in_exactly_m_log2_k_bits(regions, subspaces, codewords, seed):
    codes = random_codes(regions, subspaces, codewords, seed)
    stored = segments.pack(codes)
    back = segments.unpack(stored, regions, subspaces=subspaces, codewords=codewords)

    assert stored.nbytes == -(-regions * subspaces * int(np.log2(codewords)) // 8)
    assert back.dtype == codes.values.dtype
    assert (back == codes.values).all()


def test_what_was_written_is_read_again(tmp_path):
    path = write(tmp_path / "x.udq")
    manifest = manifests.read_manifest(path)
    model, found = manifests.read_model(path, manifest), read(path)

    assert (manifest.images, manifest.regions, manifest.config) == (3, 8, IndexConfig())
    assert manifest.broken == [{"image": "x.jpg", "reason": "x.jpg: empty file"}]
    assert model.to_bytes() == small_model().to_bytes()
    for segment, (codes, counts, names) in zip(found, SEGMENTS, strict=True):
        assert (segment.codes == codes.values).all()
        assert segment.offsets.tolist() == [0, *np.cumsum(counts)]
        assert [image.name for image in segment.images] == names
        assert (segment.boxes == [0, 0, 100, 80]).all()
        again = [segment.indexed(row) for row in segment.living]
        for one, other in zip(again, indexed(codes, counts, names), strict=True):
            assert (one.image, one.content, one.error) == (other.image, other.content, other.error)
    assert verify(path) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.udq"]


@pytest.mark.parametrize("what", ["folder", "file", "dangling link"])
def test_nothing_at_the_destination_is_overwritten(tmp_path, what):
    place = tmp_path / "x.udq"
    {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("gone")}[what]()

    with pytest.raises(InputError, match="already exists"):
        builder.CollectionBuilder(place, fingerprint="one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UdqError, match="cannot create a collection here"):
        builder.CollectionBuilder(tmp_path / "file" / "x.udq", fingerprint="one")


def test_a_single_changed_byte_is_found_in_every_file(tmp_path):
    path = write(tmp_path / "x.udq")
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lock"]
    assert len(files) == 17
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert [damage.file for damage in verify(path)] == [file.relative_to(path).as_posix()]
        file.write_bytes(whole)


def test_a_truncated_or_missing_file_is_refused_when_opened(tmp_path):
    path = write(tmp_path / "x.udq")
    for file in [file for file in path.rglob("*") if file.is_file() and file.name not in ("lock", manifests.COPY)]:
        whole = file.read_bytes()
        file.write_bytes(whole[:-3])
        with pytest.raises(CollectionError, match="damaged"):
            read(path)
        file.unlink()
        with pytest.raises(CollectionError):
            read(path)
        file.write_bytes(whole)
    read(path)


def test_a_changed_manifest_is_refused(tmp_path):
    path = write(tmp_path / "x.udq")
    text = (path / "collection.json").read_text()
    (path / "collection.json").write_text(text.replace('"regions": 5', '"regions": 6'))

    with pytest.raises(CollectionError, match="checksum differs"):
        manifests.read_manifest(path)


def test_a_newer_version_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "x.udq")
    change(path, version=manifests.VERSION + 1)

    with pytest.raises(CollectionError, match=r"format version 4 is newer than this udq reads \(3\); upgrade udq"):
        manifests.read_manifest(path)


def test_an_older_version_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "x.udq")
    change(path, version=1)

    with pytest.raises(CollectionError, match=r"format version 1 is older than this udq reads \(2\); build it again"):
        manifests.read_manifest(path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "segments/../../x/codes.npy", "model-000001.npz/.."])
def test_a_manifest_cannot_lead_out_of_the_collection(tmp_path, name):
    path = write(tmp_path / "x.udq")
    entry = json.loads((path / "collection.json").read_text())["model"]
    change(path, model=entry | {"file": name})

    with pytest.raises(CollectionError, match="is not a file of a collection"):
        manifests.read_model(path, manifests.read_manifest(path))


def test_other_files_and_folders_are_not_collections(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "collection.json").write_text('{"format": "something", "version": 1}')

    with pytest.raises(InputError, match="no such collection"):
        manifests.read_manifest(tmp_path / "nowhere")
    for name in ("file", "folder", "other"):
        with pytest.raises(CollectionError, match="not a udq collection"):
            manifests.read_manifest(tmp_path / name)


def test_local_features_are_stored_with_their_photos(tmp_path):
    path = write(tmp_path / "x.udq")
    expected = [photo for codes, counts, names in SEGMENTS for photo in indexed(codes, counts, names)]
    found = [segment.indexed(row) for segment in read(path) for row in range(len(segment.images))]

    assert [len(photo.points) for photo in found] == [2, 5, 2]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.points, other.points)


def test_a_segment_without_local_features_has_no_files_of_them(tmp_path):
    photos = [replace(photo, points=NONE) for photo in indexed(*SEGMENTS[0])]
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        made.put_model(small_model())
        made.put_segment(photos, codewords=32, done=2)
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=2)
    (segment,) = read(tmp_path / "x.udq")

    assert not (tmp_path / "x.udq" / "segments" / "000001" / "points.npy").exists()
    assert [len(segment.indexed(row).points) for row in range(2)] == [0, 0]


@pytest.mark.parametrize("starts", [[0, 2, 6], [0, 7, 5], [1, 2, 7], [0, 2], [0.0, 2.0, 7.0]])
def test_starts_of_local_features_that_disagree_are_damage(tmp_path, starts):
    path = write(tmp_path / "x.udq")
    forge(path, "starts.npy", np.array(starts))

    with pytest.raises(CollectionError, match=r"starts\.npy: damaged \(its files disagree\)"):
        list(read(path))


@pytest.mark.parametrize(
    "points", [np.zeros((7, 23), np.uint8), np.zeros(7 * 24, np.uint8), np.zeros((7, 24), np.int8)]
)
def test_local_features_of_another_shape_are_damage(tmp_path, points):
    path = write(tmp_path / "x.udq")
    forge(path, "points.npy", points)

    with pytest.raises(CollectionError, match=r"points\.npy: damaged \(expected local features of 24 bytes\)"):
        list(read(path))


def test_local_features_without_their_starts_are_refused(tmp_path):
    path = write(tmp_path / "x.udq")
    document = json.loads((path / "collection.json").read_text())
    del document["segments"][0]["files"]["starts.npy"]
    change(path, segments=document["segments"])

    with pytest.raises(CollectionError, match=r"both points\.npy and starts\.npy, or neither"):
        manifests.read_manifest(path)
