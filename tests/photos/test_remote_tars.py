"""Photos in hostile tar archives: each is read, or listed as unreadable; an archive that cannot be read is one line."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import PurePosixPath

import hostile_tars
import pytest
from configs import QUICK
from hypothesis import given, settings

from udq import Collection
from udq.errors import ImageError, InputError, NoPhotosError
from udq.indexing.verify import verify
from udq.photos import remote

FEW = QUICK.replace({"sample": {"photos": 2}})


def listed(file, data):
    """Return the photos in an archive of these bytes, name -> content or reason, and the number of other files."""
    file.write_bytes(data)
    sources, skipped = remote.find([file])
    found = {}
    for source in sources:
        assert "\0" not in source.name
        assert len(source.name.encode("utf-8", "surrogatepass")) < 4200
        assert (source.size, source.offset) >= (0, 0)
        assert source.offset + source.size <= len(data)
        try:
            with source.local() as local:
                found[source.name] = local.read_bytes()
            assert found[source.name] == data[source.offset : source.offset + source.size]
            assert ".." not in PurePosixPath(source.name).parts
        except ImageError as error:
            found[source.name] = str(error)
    reasons = [content for content in found.values() if isinstance(content, str)]
    assert not any("\n" in reason or len(reason) > 700 for reason in reasons)
    assert len(found) == len(sources)
    return found, skipped.other_files


def refusal(file, data):
    with pytest.raises(InputError) as caught:
        listed(file, data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{file}: expected a whole tar file, not compressed (")
    return str(caught.value)


@pytest.mark.parametrize("form", hostile_tars.FORMS)
def test_hostile_headers_are_listed_or_one_line(tmp_path, form):
    blocks, outcome = hostile_tars.FORMS[form]
    data = hostile_tars.between(blocks)
    if outcome == hostile_tars.REFUSED:
        refusal(tmp_path / "s.tar", data)
        return
    found, skipped = listed(tmp_path / "s.tar", data)

    assert found.pop("s.tar/first.jpg") == b"first"
    assert found.pop("s.tar/last.jpg") == b"last"
    assert skipped == 0
    (content,) = found.values()
    if outcome == hostile_tars.TAKEN:
        assert content == b"evil"
    else:
        assert isinstance(content, str)


@pytest.mark.parametrize("cut", hostile_tars.CUT)
def test_an_archive_that_ends_too_early_is_one_line(tmp_path, cut):
    refusal(tmp_path / "s.tar", hostile_tars.CUT[cut])


def test_an_archive_without_its_end_mark_is_listed_beside_its_photos(tmp_path):
    found, _ = listed(tmp_path / "s.tar", hostile_tars.member(b"a.jpg", b"photo"))

    assert found == {
        "s.tar": f"{tmp_path}/s.tar: the archive ends without an end mark: photos may be missing",
        "s.tar/a.jpg": b"photo",
    }


def test_an_unreadable_member_hides_no_other(tmp_path):
    bad = hostile_tars.pax(path=b"a.jpg", size=b"-1") + hostile_tars.member()
    found, skipped = listed(
        tmp_path / "s.tar",
        bad + hostile_tars.member(b"a.jpg", b"photo") + bad + hostile_tars.member(b"b.txt") + hostile_tars.END,
    )

    assert found.pop("s.tar/a.jpg") == b"photo"
    assert sorted(found) == ["s.tar/a.jpg (header at byte 0)", "s.tar/a.jpg (header at byte 3072)"]
    assert skipped == 1


def test_a_collection_of_an_archive_with_a_nul_in_a_name_opens(photos, tmp_path):
    middle = b"".join(
        hostile_tars.pax(path=b"a\0.png") + hostile_tars.member(name.encode(), (photos / name).read_bytes())
        for name in ("rocket.png", "page.png")
    )
    good = (photos / "coffee.png").read_bytes()
    (tmp_path / "s.tar").write_bytes(middle + hostile_tars.member(b"coffee.png", good) + hostile_tars.END)
    Collection.build(tmp_path / "s.tar", tmp_path / "x.udq", config=FEW, device="cpu")
    opened = Collection.open(tmp_path / "x.udq")

    assert opened.names == ["s.tar/coffee.png"]
    first = {"image": r"s.tar/a\x00.png (header at byte 0)",
             "reason": rf"{tmp_path}/s.tar/a\x00.png (header at byte 0): its name contains a NUL",
             "root": f"{tmp_path}/"}  # fmt: skip
    assert opened.broken[0] == first
    assert len(opened.broken) == 2
    assert verify(tmp_path / "x.udq") == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has FIFOs")
def test_a_fifo_in_place_of_an_archive_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "s.tar")
    with pytest.raises(InputError, match=r"s\.tar: expected a whole tar file, not compressed \(not a regular file\)$"):
        remote.find([tmp_path / "s.tar"])


@pytest.mark.parametrize("name", ["a" * 5000 + ".tar", "a\0.tar"], ids=["long", "NUL"])
def test_a_path_that_is_impossible_is_one_line(name):
    with pytest.raises(InputError, match="expected a whole tar file"):
        remote.find([name])


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_truncated_or_changed_real_archive_loses_no_photo_silently(photos, tmp_path, kind):
    names = ["coffee.png", "rocket.png", "page.png"]
    with tarfile.open(tmp_path / "whole.tar", "w", format=kind) as tar:
        for name in names:
            tar.add(photos / name, name if kind == tarfile.USTAR_FORMAT else f"{'d' * 120}/{name}")
    data = (tmp_path / "whole.tar").read_bytes()
    found, _ = listed(tmp_path / "s.tar", data)
    assert [len(content) for content in found.values()] == [(photos / name).stat().st_size for name in sorted(names)]

    for cut in range(1, len(data) - 10_240, len(data) // 40):
        try:
            assert "s.tar" in listed(tmp_path / "s.tar", data[:cut])[0]  # cut between two members
        except InputError as error:
            assert "cut short" in str(error) or "shorter than a tar header" in str(error)  # noqa: PT017


@settings(deadline=10_000, max_examples=400)
@given(archive=hostile_tars.archives)
def test_any_archive_is_listed_or_is_one_line(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        listed(folder / "s.tar", archive)
    except NoPhotosError:
        pass
    except InputError as error:
        assert "expected a whole tar file" in str(error)  # noqa: PT017
    finally:
        shutil.rmtree(folder)
