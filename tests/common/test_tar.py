"""The reader of tar archives agrees with tarfile on honest ones, and is bounded on all others."""

from __future__ import annotations

import io
import tarfile
import time
import tracemalloc

import hostile_tars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.common.tar import DamagedTarError, TarReader, why_refused

parts = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda part: part not in (".", "..")
)
members = st.lists(
    st.tuples(st.lists(parts, min_size=1, max_size=6).map("/".join), st.binary(max_size=2000),
              st.integers(0, 8 * 10**9), st.booleans()),
    max_size=6,
)  # fmt: skip


def read(data, *, seeks=True):
    """Return name, kind, time and content of each member."""
    reader = TarReader(io.BytesIO(data), len(data), seeks=seeks)
    found = []
    for member in reader:
        content = b""
        while some := reader.read(700):
            content += some
        assert len(content) == member.size
        assert data[member.offset : member.offset + member.size] == content
        found.append((member.name, member.kind, member.modified, content, member.fault))
    return found


@settings(deadline=10_000, max_examples=150)
@given(members=members, kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), seeks=st.booleans())
def test_honest_archives_are_read_as_tarfile_writes_them(members, kind, seeks):
    buffer = io.BytesIO()
    expected = []
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, content, modified, is_folder in members:
            member = tarfile.TarInfo(name)
            member.mtime = modified
            if is_folder:
                member.type, content = tarfile.DIRTYPE, b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            fault = why_refused(name)
            expected.append((name, "folder" if is_folder else "file", modified * 10**9, content, fault))
    found = read(buffer.getvalue(), seeks=seeks)

    assert [entry for entry in found if not entry[4]] == [entry for entry in expected if not entry[4]]
    assert [entry[1:] for entry in found] == [entry[1:] for entry in expected]


@pytest.mark.parametrize("seeks", [True, False])
def test_content_that_is_not_read_is_skipped(seeks):
    data = hostile_tars.between(hostile_tars.member(b"big.jpg", bytes(3_000_001)))
    reader = TarReader(io.BytesIO(data), len(data), seeks=seeks)
    names = []
    for member in reader:
        names.append(member.name)
        assert len(reader.read(2)) == 2

    assert names == ["first.jpg", "big.jpg", "last.jpg"]
    assert reader.complete


def test_nothing_is_read_outside_a_member():
    data = hostile_tars.between(hostile_tars.member(b"a.jpg", b"123"))
    reader = TarReader(io.BytesIO(data), len(data), seeks=True)
    contents = [reader.read(10**9) + reader.read(10**9) for _ in reader]

    assert contents == [b"first", b"123", b"last"]


@pytest.mark.parametrize(
    "form",
    [
        "pax headers in a chain",
        "long names in a chain",
        "global headers in a chain",
        "sparse with extensions to the end",
    ],
)
def test_chains_take_little_memory_and_time(form):
    """Ten thousand headers: recursion, or a list of them, would be seen."""
    blocks = hostile_tars.FORMS[form][0]
    one = blocks[:1024] if "chain" in form else blocks[512:1024]
    data = hostile_tars.between((blocks[:512] if "sparse" in form else b"") + one * 10_000 + hostile_tars.member())
    reader = TarReader(io.BytesIO(data), len(data), seeks=True)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        for _ in reader:
            pass
    except DamagedTarError:
        assert "sparse" in form
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 2**20
    assert time.perf_counter() - start < 10


def test_signed_sums_of_old_programs_are_known():
    block = bytearray(hostile_tars.header("é.jpg".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 2 * 256)

    assert read(bytes(block) + hostile_tars.END)[0][0] == "é.jpg"


def test_a_header_of_many_records_is_read_in_linear_time():
    data = hostile_tars.extension(b"6 a=b\n" * 170_000) + hostile_tars.member() + hostile_tars.END
    start = time.perf_counter()
    (found,) = read(data)

    assert found[0] == "evil.jpg"
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/b.jpg", ""),
        ("é/..b.jpg", ""),
        ("a\udce9.jpg", ""),
        ("a/../b.jpg", "its name contains '..'"),
        ("a\0.jpg", "its name contains a NUL"),
        ("a" * 256, "its name is longer than 4,096 bytes, or a part of it than 255"),
        ("é" * 128, "its name is longer than 4,096 bytes, or a part of it than 255"),
        ("a/" * 2049, "its name is longer than 4,096 bytes, or a part of it than 255"),
        ("\ud800", "its name is not text"),
    ],
)
def test_names(name, reason):
    assert why_refused(name) == reason
