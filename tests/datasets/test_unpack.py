"""Archives of strangers are unpacked inside their folder, or refused in one line."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tracemalloc

import hostile_tars
import pytest
from hypothesis import given, settings
from test_download import Server

from udq.datasets import catalogue
from udq.datasets.download import DownloadPlan, download
from udq.datasets.download.unpack import unpack
from udq.errors import DiskError, UdqError


@pytest.fixture
def place(tmp_path):
    """A target folder with a file beside it, which no archive may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file.txt").write_bytes(b"mine")
    (tmp_path / "target").mkdir()
    return tmp_path


def unpacked(place, data, name="a.tar"):
    """Unpack bytes below a place; return the files below its target, and the error's one line."""
    (place / name).write_bytes(data)
    line = ""
    try:
        unpack(place / name, place / "target", remedy="get it again")
    except UdqError as error:
        line = str(error)
        assert line.startswith(f"{place}{os.sep}")
        assert "\n" not in line
        assert len(line) < 700
    assert sorted(path.name for path in place.iterdir()) == sorted({name, "outside", "target"})
    assert [(path.name, path.read_bytes()) for path in (place / "outside").iterdir()] == [("file.txt", b"mine")]
    found = list((place / "target").rglob("*"))
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in found)
    return [path.relative_to(place / "target").as_posix() for path in found if path.is_file()], line


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tgz"])
@pytest.mark.parametrize("form", hostile_tars.FORMS)
def test_hostile_headers_are_refused_in_one_line(place, form, packed):
    blocks, outcome = hostile_tars.FORMS[form]
    archive = hostile_tars.between(blocks)
    found, line = unpacked(place, gzip.compress(archive, 1) if packed else archive, "a.tgz" if packed else "a.tar")

    if outcome == hostile_tars.TAKEN:
        assert line == ""
        assert len(found) == 3
        assert {"first.jpg", "last.jpg"} < set(found)
    else:
        assert found == ["first.jpg"]  # what stands before it
        cut = outcome == hostile_tars.REFUSED and form != "sparse with extensions to the end"
        assert ("damaged, not a whole archive (" if cut else "is not unpacked, for safety: ") in line


@pytest.mark.parametrize("cut", hostile_tars.CUT)
def test_an_archive_that_ends_too_early_is_damaged(place, cut):
    for packed in (False, True):
        data = hostile_tars.CUT[cut]
        _, line = unpacked(place, gzip.compress(data) if packed else data, "a.tgz" if packed else "a.tar")
        (place / ("a.tgz" if packed else "a.tar")).unlink()
        assert "damaged, not a whole archive (" in line


def test_an_archive_without_its_end_mark_is_damaged(place):
    found, line = unpacked(place, hostile_tars.member(b"a.jpg"))

    assert found == ["a.jpg"]
    assert "it ends without an end mark" in line


def test_a_compressed_archive_is_compared_with_its_own_checksum(place):
    data = bytearray(gzip.compress(hostile_tars.between(hostile_tars.member()), 0))
    data[-6] ^= 1

    assert "CRC check failed" in unpacked(place, bytes(data), "a.tgz")[1]


def test_links_longer_than_a_path_may_be_do_not_lead_out(place):
    """CVE-2025-4517: the filter of tarfile does not resolve such a link, and a later file is written through it."""
    part = "d" * 247
    steps = "abcdefghijklmnop"
    folder = ""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name, kind, link=""):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)

        for step in steps:
            add(os.path.join(folder, part), tarfile.DIRTYPE)  # noqa: PTH118
            add(os.path.join(folder, step), tarfile.SYMTYPE, part)  # noqa: PTH118
            folder = os.path.join(folder, part)  # noqa: PTH118
        long = f"{'/'.join(steps)}/{'l' * 254}"
        add(long, tarfile.SYMTYPE, "../" * len(steps))
        add("escape", tarfile.SYMTYPE, f"{long}/../outside")
        add("through", tarfile.LNKTYPE, "escape/file.txt")
        evil = tarfile.TarInfo("through")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
    found, line = unpacked(place, buffer.getvalue())

    assert found == []
    assert "'a' is a link, and only files and folders are unpacked" in line


def test_links_in_the_target_folder_are_not_followed(place):
    (place / "target" / "sub").symlink_to(place / "outside")
    (place / "target" / "a.jpg").symlink_to(place / "outside" / "file.txt")
    (place / "target" / "b.jpg").hardlink_to(place / "outside" / "file.txt")
    archive = place / "a.tar"
    archive.write_bytes(b"".join(map(hostile_tars.member, (b"a.jpg", b"b.jpg", b"sub/file.txt"))) + hostile_tars.END)
    with pytest.raises(DiskError, match=r"target/sub: expected a folder, found a link or a file; remove it"):
        unpack(archive, place / "target")

    assert (place / "outside" / "file.txt").read_bytes() == b"mine"
    assert not (place / "target" / "a.jpg").is_symlink()
    assert (place / "target" / "a.jpg").read_bytes() == (place / "target" / "b.jpg").read_bytes() == b"evil"

    (place / "target" / "gnd.mat").symlink_to(place / "outside" / "file.txt")
    (place / "gnd.mat").write_bytes(b"truth")
    unpack(place / "gnd.mat", place / "target")
    assert (place / "outside" / "file.txt").read_bytes() == b"mine"
    assert (place / "target" / "gnd.mat").read_bytes() == b"truth"


def test_the_target_folder_itself_may_be_a_link(place):
    (place / "moved").mkdir()
    (place / "target").rmdir()
    (place / "target").symlink_to(place / "moved")
    (place / "a.tar").write_bytes(hostile_tars.member(b"sub/a.jpg") + hostile_tars.END)
    unpack(place / "a.tar", place / "target")

    assert (place / "moved" / "sub" / "a.jpg").read_bytes() == b"evil"


@pytest.mark.parametrize("names", [(b"a", b"a/b.jpg"), (b"a/b.jpg", b"a")], ids=["file first", "folder first"])
def test_a_name_that_is_a_file_and_a_folder_is_one_line(place, names):
    _, line = unpacked(place, b"".join(map(hostile_tars.member, names)) + hostile_tars.END)

    assert "target/a: expected a " in line


def test_permissions_of_an_archive_are_ignored_and_times_are_kept(place):
    header = hostile_tars.header(b"a.sh", size=4, modified=1_000_000_000, patch={100: b"0007777\0"})
    unpacked(place, header + hostile_tars.padded(b"evil") + hostile_tars.END)
    status = (place / "target" / "a.sh").stat()

    assert status.st_mode & 0o7111 == 0
    assert status.st_mtime == 1_000_000_000


def test_a_small_archive_does_not_fill_the_disk(place):
    header = hostile_tars.header(b"a.jpg", size=2**31)
    _, line = unpacked(place, gzip.compress(hostile_tars.member() + header + bytes(2**16)), "a.tgz")

    assert "more than the limit of 1,073,741,824 bytes unpacked" in line
    assert sum(path.stat().st_size for path in (place / "target").rglob("*")) == 4


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_memory_is_bounded_whatever_a_header_says(place, kind):
    """An extension header of 256 MiB, compressed to one, is refused without being held."""
    with gzip.open(place / "a.tgz", "wb", 1) as file:
        file.write(hostile_tars.header(kind=kind, size=2**28))
        for _ in range(2**8):
            file.write(bytes(2**20))
        file.write(hostile_tars.member())
    tracemalloc.start()
    try:
        with pytest.raises(UdqError, match="an extension header of 268,435,456 bytes"):
            unpack(place / "a.tgz", place / "target")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * 2**20


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others_are_unpacked_whole(place, kind):
    names = ["a.jpg", "sub/b.jpg", "d" * 90 + "/" + "e" * 90 + ".jpg"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["f" * 200 + "/" + "g" * 200 + ".jpg", "é/ü.jpg"]
    (place / "from").mkdir()
    for name in names:
        (place / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "from" / name).write_bytes(name.encode() * 300)
    with tarfile.open(place / "a.tar.gz", "w:gz", format=kind) as tar:
        tar.add(place / "from", "all")
    unpack(place / "a.tar.gz", place / "target")

    for name in names:
        copy, original = place / "target" / "all" / name, place / "from" / name
        assert copy.read_bytes() == original.read_bytes()
        assert abs(copy.stat().st_mtime - original.stat().st_mtime) < 1
    assert sum(path.is_file() for path in (place / "target").rglob("*")) == len(names)


@settings(deadline=10_000, max_examples=300)
@given(archive=hostile_tars.archives)
def test_any_archive_is_unpacked_inside_its_folder_or_is_one_line(archive, tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    (place / "outside").mkdir()
    (place / "outside" / "file.txt").write_bytes(b"mine")
    (place / "target").mkdir()
    try:
        unpacked(place, archive)
        assert sum(path.stat().st_size for path in (place / "target").rglob("*") if path.is_file()) <= len(archive)
    finally:
        shutil.rmtree(place)


# --- checksums that are known beforehand ----------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    running = Server()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_another_archive_than_the_known_one_is_refused_and_removed(udq, server, tmp_path):
    files = catalogue.find("voc2007").files
    evil = hostile_tars.member(b"VOCdevkit/evil.jpg") + hostile_tars.END
    server.files = {file.name: evil for file in files}
    code, _, err = udq("datasets", "download", "voc2007", "-o", tmp_path / "voc", "--mirror", server.url, "--yes")

    assert code == 1
    assert f"expected sha256 {files[0].sha256[:16]}..., the one of {files[0].name}, found " in err
    assert "it is removed; try again, or use --mirror or --from" in err
    assert not [path for path in (tmp_path / "voc").rglob("*") if path.suffix in (".tar", ".part", ".version", ".jpg")]

    (tmp_path / "usb").mkdir()
    for file in files:
        (tmp_path / "usb" / file.name).write_bytes(evil)
    code, _, err = udq("datasets", "download", "voc2007", "-o", tmp_path / "voc", "--from", tmp_path / "usb")
    assert code == 1
    assert f"copy it again from {files[0].url}" in err
    assert (tmp_path / "usb" / files[0].name).exists()

    (tmp_path / "voc" / "archives" / files[0].name).write_bytes(evil)
    code, _, err = udq("datasets", "download", "voc2007", "-o", tmp_path / "voc", "--mirror", server.url, "--yes")
    assert code == 1
    assert "delete it and run the command again" in err
    assert not list((tmp_path / "voc").rglob("*.jpg"))


def test_the_known_archive_is_unpacked(server, tmp_path):
    archive = hostile_tars.member(b"a.jpg", b"photo") + hostile_tars.END
    server.files = {"a.tar": archive}
    dataset = dataclasses.replace(
        catalogue.find("voc2007"),
        files=(catalogue.File(f"{server.url}/a.tar", "", hashlib.sha256(archive).hexdigest()),),
    )
    download(DownloadPlan(dataset, tmp_path))

    assert (tmp_path / "a.jpg").read_bytes() == b"photo"


def test_an_archive_is_kept_if_it_is_the_disk_that_refuses(server, tmp_path):
    server.files = {"a.tar": hostile_tars.member(b"a/b.jpg", b"photo") + hostile_tars.END}
    dataset = dataclasses.replace(catalogue.find("voc2007"), files=(catalogue.File(f"{server.url}/a.tar", ""),))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskError, match="remove it and run the command again"):
        download(DownloadPlan(dataset, tmp_path))
    (tmp_path / "a").unlink()
    asked = len(server.requests)
    download(DownloadPlan(dataset, tmp_path))

    assert len(server.requests) == asked
    assert (tmp_path / "a" / "b.jpg").read_bytes() == b"photo"
