"""Untrusted files: whatever their bytes, the result is an answer or an error of one line."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_manifest import write

from udq import Collection
from udq.cli.options import parse_box
from udq.common import files
from udq.datasets import boxes, detection
from udq.errors import InputError, UdqError
from udq.indexing.verify import verify
from udq.photos.boxes import check_box
from udq.search.ranking import ranking_by_feature
from udq.store import manifest

FILES = ("model-000001.npz", *(f"segments/000001/{name}" for name in
         ("codes.npy", "boxes.npy", "offsets.npy", "photos.npy", "points.npy", "starts.npy",
          "images.json")))  # fmt: skip
SHARED = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

numbers = st.one_of(
    st.integers(-3, 10),
    st.sampled_from([2**31, 2**63, 2**64, 10**30, -(2**63), 1e308, float("inf"), float("nan"), 0.5]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5), st.sampled_from(["\0", "..", "/", "\ud800"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)
edits = st.lists(
    st.tuples(st.sampled_from(["insert", "remove", "change"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)
arrays = st.builds(
    lambda kind, shape, fill: np.full(shape, fill).astype(kind),
    st.sampled_from(["u1", "u2", "<i8", ">i8", "<f4", "<f8", "c8", "?", "S3", "U2", "V16", [("id", "<i8")]]),
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.integers(0, 200),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "x.udq")


@pytest.fixture(scope="module")
def path(whole):
    """A copy that each example damages in another way."""
    return shutil.copytree(whole, whole.with_name("copy.udq"))


def edited(data, edits):
    data = bytearray(data)
    for kind, share, some in edits:
        at = int(share * len(data))
        if kind == "insert":
            data[at:at] = some
        elif kind == "remove":
            del data[at : at + len(some)]
        else:
            data[at : at + len(some)] = some
    return bytes(data)


def put(path, whole, name, data):
    """Write a file of a collection, restore all others, and correct the checksums as an attacker would."""
    for other in (manifest.MANIFEST, *FILES):
        shutil.copy(whole / other, path / other)
    document = json.loads((whole / manifest.MANIFEST).read_text())
    (path / name).write_bytes(data)
    manifest.facts_of(document)[name].update(bytes=len(data), sha256=files.checksum(data))
    put_manifest(path, document)


def put_manifest(path, document):
    document["sha256"] = manifest.document_sum(document)
    (path / manifest.MANIFEST).write_text(json.dumps(document))


def use(path, channels=10):
    """Open, search and verify; only errors of one line are allowed, and none if nothing is damaged."""
    query = np.linspace(0, 1, channels, dtype=np.float32)
    errors = []
    for work in (
        lambda: Collection.open(path).names,
        lambda: search(Collection.open(path), query),
        lambda: json.dumps(Collection.open(path).info(), allow_nan=False),
    ):
        try:
            work()
        except UdqError as error:
            in_one_line(error)
            errors.append(error)
    try:
        damage = verify(path)
    except UdqError as error:
        in_one_line(error)
        assert errors
    else:
        # A damaged copy of the manifest is the one damage that a search does not notice.
        damaged = [each for each in damage if each.file != manifest.COPY and "contents are intact" not in each.affects]
        assert all("\n" not in each.reason for each in damage)
        # A model that is read may be for other queries, or have distances that overflow.
        assert bool(errors) == bool(damaged) or (errors and all(isinstance(e, InputError) for e in errors))


def in_one_line(error):
    assert "\n" not in str(error)


def search(collection, query):
    ranking = ranking_by_feature(collection.database, query)
    found = [ranking.match(place, i, collection.names[i]) for place, i in enumerate(ranking.order.tolist(), start=1)]
    assert all(np.isfinite(match.box).all() for match in found)
    assert len(found) == len(collection.names)


@given(st.sampled_from(FILES), edits)
@SHARED
def test_changed_bytes_in_any_file(whole, path, name, edits):
    put(path, whole, name, edited((whole / name).read_bytes(), edits))
    use(path)


@given(st.sampled_from([name for name in FILES if name.endswith(".npy")]), arrays)
@SHARED
def test_other_arrays(whole, path, name, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    put(path, whole, name, buffer.getvalue())
    use(path)


@given(
    st.sampled_from(["weight_0", "bias_0", "rotation", "codebooks", "residuals", "origin", "more"]),
    arrays,
    st.booleans(),
)
@SHARED
def test_other_arrays_of_a_model(whole, path, name, array, compressed):
    parts = dict(np.load(whole / FILES[0]))
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **(parts | {name: array}))
    put(path, whole, FILES[0], buffer.getvalue())
    use(path)


@given(st.sampled_from(["names", "roots", "sizes"]), st.integers(0, 2), values)
@SHARED
def test_other_names_and_sizes_of_photos(whole, path, key, row, value):
    listed = json.loads((whole / "segments/000001/images.json").read_text())
    if row < len(listed[key]):
        listed[key][row] = value
    else:
        listed[key] = value
    put(path, whole, "segments/000001/images.json", json.dumps(listed).encode())
    use(path)


def places(document, before=()):
    """The path of keys to every value in a JSON document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*before, key)
        yield from places(value, (*before, key))


@given(st.data())
@settings(SHARED, max_examples=100)
def test_other_values_in_a_manifest(whole, path, data):
    put(path, whole, FILES[0], (whole / FILES[0]).read_bytes())
    document = json.loads((whole / manifest.MANIFEST).read_text())
    *inner, last = data.draw(st.sampled_from(list(places(document))))
    place = document
    for key in inner:
        place = place[key]
    if data.draw(st.booleans()):
        place[last] = data.draw(values)
    else:
        del place[last]
    put_manifest(path, document)
    use(path)


REAL = Path(__file__).parents[1] / "collections" / "format-3"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A copy of a collection of real photos."""
    return shutil.copytree(REAL, tmp_path_factory.mktemp("real") / "x.udq")


def place_of(document, keys):
    *inner, last = keys
    for key in inner:
        document = document[key]
    return document, last


@given(st.data())
@settings(SHARED, max_examples=60)
def test_parts_of_a_real_manifest_that_are_changed_exchanged_repeated_or_missing(real, data):
    document = json.loads((REAL / manifest.MANIFEST).read_text())
    for _ in range(data.draw(st.integers(1, 4))):
        known = list(places(document))
        where, last = place_of(document, data.draw(st.sampled_from(known)))
        edit = data.draw(st.sampled_from(["change", "copy", "repeat", "delete", "count"]))
        if edit == "delete":
            del where[last]
        elif edit == "repeat" and isinstance(where[last], list):
            where[last] = where[last] * data.draw(st.integers(2, 3000))
        elif edit == "count" and isinstance(where[last], int | float):
            where[last] = where[last] + data.draw(st.sampled_from([-1, 1, 2**31, 2**62]))
        elif edit == "copy":
            other, key = place_of(document, data.draw(st.sampled_from(known)))
            with contextlib.suppress(LookupError, TypeError):  # the other place is gone
                where[last] = copy.deepcopy(other[key])
        else:
            where[last] = data.draw(values)
        if not isinstance(document, dict) or not document:
            return
    put_manifest(real, document)
    started = time.monotonic()
    use(real, channels=1280)
    assert time.monotonic() - started < 20


@given(st.one_of(edits, st.integers(1, 10**5)))
@SHARED
def test_a_manifest_of_other_bytes(whole, path, edits):
    text = (whole / manifest.MANIFEST).read_bytes()
    nested = b'{"format": "udq-collection", "version": 3, "x": ' + b"[" * edits + b"]" * edits + b"}" if isinstance(
        edits, int) else b""  # fmt: skip
    (path / manifest.MANIFEST).write_bytes(nested or edited(text, edits))
    use(path)


@given(st.one_of(st.text(), st.text(alphabet="0123456789,.-+e_ infa", max_size=30)))
def test_a_box_on_the_command_line(text):
    try:
        box = check_box(parse_box(text), 640, 480)
    except UdqError as error:
        in_one_line(error)
    else:
        assert 0 <= box[0] < box[2] <= 640
        assert 0 <= box[1] < box[3] <= 480


cells = st.text(alphabet='0123456789.-+e|, "\n\r\0naif', max_size=12)
tables = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.lists(cells, max_size=10).map(",".join), max_size=5).map("\n".join).map(str.encode),
)
heads = st.sampled_from([b"", b"query_image,x1,y1,x2,y2,positives,junk,positive_boxes\n", b"image,x1,y1,x2,y2\n",
                         b"\xef\xbb\xbfimage,x1,y1,x2,y2,image\r\n"])  # fmt: skip


@given(heads, tables)
@SHARED
def test_tables_of_boxes(whole, head, table):
    path = whole.with_name("boxes.csv")
    path.write_bytes(head + table)
    for load in (boxes.load, detection.load):
        try:
            load(path)
        except UdqError as error:
            in_one_line(error)
