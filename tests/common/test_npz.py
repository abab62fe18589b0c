import contextlib
import io
import os
import struct
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from udq.common import npz
from udq.common.files import npy
from udq.store.segments import PHOTO

DTYPES = st.sampled_from(["u1", "<u2", "<i8", "<f4", ">f8", "?", "<U7", PHOTO])


@given(st.data(), DTYPES)
@settings(max_examples=60, deadline=None)
def test_arrays_are_read_as_numpy_wrote_them(data, dtype):
    shape = data.draw(arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    values = np.frombuffer(data.draw(st.binary(min_size=4096, max_size=4096)), np.uint8) % 100
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.resize(values, max(size, 1))[:size].copy().view(dtype).reshape(shape)
    array = np.asfortranarray(array) if data.draw(st.booleans()) else array
    found = npz.read_array(io.BytesIO(npy(array)))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable
    assert npz.from_bytes(npz.to_bytes({"a": array}))["a"].tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), ()])
def test_mapped_arrays_equal_read_ones(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    (tmp_path / "a.npy").write_bytes(npy(array))
    np.testing.assert_array_equal(npz.read_array(tmp_path / "a.npy", mapped=True), array)


def test_headers_are_not_evaluated():
    """CPython 3.11's parser of Python source raises SystemError now and then when threads use it together."""
    data = npy(np.arange(6).reshape(2, 3))
    stop = threading.Event()

    def parse():
        import ast

        while not stop.is_set():
            ast.parse("{'a': [(1, 2), (3, 4)]}")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    evaluated = []

    def listen(event, _):
        if event == "compile" and not stop.is_set():
            evaluated.append(threading.get_ident())

    sys.addaudithook(listen)
    other = threading.Thread(target=parse)
    other.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            threads = set(pool.map(lambda _: (npz.read_array(io.BytesIO(data)), threading.get_ident())[1], range(200)))
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(before)
    assert other.ident in evaluated
    assert not threads & set(evaluated)


def with_header(text: str, values: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + values


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01",
        b"\x93NUMPY\x09\x00\x10\x00",
        npy(np.arange(3))[:-1],
        npy(np.arange(3)) + b"x",
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999, 999999999), }"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        with_header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        with_header("{'descr': '|V0', 'fortran_order': False, 'shape': (1,), }"),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }"),
        with_header("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,), }"),
        with_header("(" * 3000),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{",
    ],
)
def test_other_bytes_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match=r"."):
        npz.read_array(io.BytesIO(data))
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        npz.read_array(tmp_path / "a.npy", mapped=True)


@given(st.binary(max_size=40), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_an_error_or_an_array(patch, place):
    data = bytearray(npz.to_bytes({"a": np.arange(20), "b": np.zeros(3, PHOTO)}))
    data[place : place + len(patch)] = patch
    for read in (npz.from_bytes, lambda data: npz.read_array(io.BytesIO(data[40:]))):
        with contextlib.suppress(ValueError):
            read(bytes(data))


def test_members_that_overlap_are_refused():
    """Without a limit, 8 MB of members that lie on one another take 3.2 GB."""
    values = npy(np.zeros(8 * 2**20, np.uint8))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a0.npy", values)
        entry = archive.infolist()[0]
        for i in range(1, 400):
            copy = zipfile.ZipInfo(f"a{i}.npy")
            copy.CRC, copy.file_size, copy.compress_size = entry.CRC, entry.file_size, entry.compress_size
            copy.header_offset = entry.header_offset
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    with pytest.raises(ValueError, match="larger than their file"):
        npz.from_bytes(buffer.getvalue())


@pytest.mark.parametrize("name", ["a.txt", "a.npy"])
def test_members_of_one_name_or_of_another_kind_are_refused(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", npy(np.arange(3)))
        with pytest.warns(UserWarning, match="Duplicate") if name == "a.npy" else contextlib.nullcontext():
            archive.writestr(name, npy(np.arange(3)))
    with pytest.raises(ValueError, match="members that are not arrays"):
        npz.from_bytes(buffer.getvalue())


@pytest.mark.parametrize("place", ["fifo", "link", "folder"])
def test_only_regular_files_are_read(tmp_path, place):
    path = tmp_path / "a.npy"
    if place == "fifo":
        os.mkfifo(path)
    elif place == "link":
        (tmp_path / "b.npy").write_bytes(npy(np.arange(3)))
        path.symlink_to(tmp_path / "b.npy")
    else:
        path.mkdir()
    with pytest.raises(ValueError, match=r"regular file|a link"):
        npz.read_array(path)


def test_an_archive_of_very_many_arrays_is_refused_before_they_are_listed(monkeypatch):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(10_001):
            archive.writestr(f"{number}.npy", b"")
    monkeypatch.setattr(npz.zipfile, "ZipFile", lambda *_: pytest.fail("listed"))
    with pytest.raises(ValueError, match=r"^more than 10,000 arrays$"):
        npz.from_bytes(data.getvalue())
