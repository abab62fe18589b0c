"""The collection on disk: what is written comes back, and what was damaged does not pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq import storage, writer
from udq.config import CODEWORDS, SUBSPACES, IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.head import Head, Layer
from udq.model import Model
from udq.quantize import Quantizer
from udq.types import Codes, Regions


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


def write(path):
    """A collection of two segments, photos of 100 x 80 pixels."""
    with writer.Writer(path, fingerprint="one") as made:
        made.put_model(small_model())
        for codes, counts, names in SEGMENTS:
            boxes = np.tile(np.array([[0.0, 0.4, 99.6, 80.0]], np.float32), (len(codes), 1))
            found = [storage.Image(name, "/photos/", 100, 80) for name in names]
            made.put_segment(codes, Regions(boxes), counts, found, done=len(found))
        made.commit(
            IndexConfig(),
            given={"weights": None, "rpn": None},
            broken=[{"image": "x.jpg", "reason": "x.jpg: empty file"}],
        )
    return path


def change(path, **entries):
    """Change the manifest and make its checksum fit, as an attacker would."""
    document = json.loads((path / "collection.json").read_text()) | entries
    document["sha256"] = storage.document_sum(document)
    (path / "collection.json").write_text(json.dumps(document))


def read(path):
    manifest = storage.read_manifest(path)
    storage.read_model(path, manifest)
    return list(storage.read_segments(path, manifest, subspaces=4, codewords=32))


@given(
    regions=st.integers(0, 40),
    subspaces=st.sampled_from(SUBSPACES),
    codewords=st.sampled_from(CODEWORDS),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_codes_come_back_from_exactly_m_log2_k_bits(regions, subspaces, codewords, seed):
    codes = random_codes(regions, subspaces, codewords, seed)
    stored = storage.pack(codes)
    back = storage.unpack(stored, regions, subspaces=subspaces, codewords=codewords)

    assert stored.nbytes == -(-regions * subspaces * int(np.log2(codewords)) // 8)
    assert back.dtype == codes.values.dtype
    assert (back == codes.values).all()


def test_what_was_written_comes_back(tmp_path):
    path = write(tmp_path / "x.udq")
    manifest = storage.read_manifest(path)
    model, segments = storage.read_model(path, manifest), read(path)

    assert (manifest.images, manifest.regions, manifest.config) == (3, 8, IndexConfig())
    assert manifest.broken == [{"image": "x.jpg", "reason": "x.jpg: empty file"}]
    assert model.to_bytes() == small_model().to_bytes()
    for segment, (codes, counts, names) in zip(segments, SEGMENTS, strict=True):
        assert (segment.codes == codes.values).all()
        assert segment.offsets.tolist() == [0, *np.cumsum(counts)]
        assert [image.name for image in segment.images] == names
        assert (segment.boxes == [0, 0, 100, 80]).all()  # outwards to whole pixels
    assert storage.damaged(path, manifest) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.udq"]


@pytest.mark.parametrize("what", ["folder", "file", "dangling link"])
def test_what_is_at_the_destination_stays(tmp_path, what):
    place = tmp_path / "x.udq"
    {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("gone")}[what]()

    with pytest.raises(InputError, match="already exists"):
        writer.Writer(place, fingerprint="one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UdqError, match="cannot create a collection here"):
        writer.Writer(tmp_path / "file" / "x.udq", fingerprint="one")


def test_a_single_changed_byte_is_found_in_every_file(tmp_path):
    path = write(tmp_path / "x.udq")
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "collection.json"]
    assert len(files) == 9
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert storage.damaged(path, storage.read_manifest(path)) == [file.relative_to(path).as_posix()]
        file.write_bytes(whole)


def test_a_truncated_or_missing_file_is_refused_when_opened(tmp_path):
    path = write(tmp_path / "x.udq")
    for file in [file for file in path.rglob("*") if file.is_file()]:
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
        storage.read_manifest(path)


def test_a_newer_version_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "x.udq")
    change(path, version=storage.VERSION + 1)

    with pytest.raises(CollectionError, match=r"format version 3 is newer than this udq reads \(2\); upgrade udq"):
        storage.read_manifest(path)


def test_an_older_version_is_refused_by_its_number(tmp_path):
    path = write(tmp_path / "x.udq")
    change(path, version=1)

    with pytest.raises(CollectionError, match=r"format version 1 is older than this udq reads \(2\); build it again"):
        storage.read_manifest(path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "segments/../../x/codes.npy", "model-000001.npz/.."])
def test_a_manifest_cannot_lead_out_of_the_collection(tmp_path, name):
    path = write(tmp_path / "x.udq")
    entry = json.loads((path / "collection.json").read_text())["model"]
    change(path, model=entry | {"file": name})

    with pytest.raises(CollectionError, match="no file of a collection"):
        storage.read_model(path, storage.read_manifest(path))


def test_other_things_are_not_collections(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "collection.json").write_text('{"format": "something", "version": 1}')

    with pytest.raises(InputError, match="no such collection"):
        storage.read_manifest(tmp_path / "nowhere")
    for name in ("file", "folder", "other"):
        with pytest.raises(CollectionError, match="not a udq collection"):
            storage.read_manifest(tmp_path / name)
