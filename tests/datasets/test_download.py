"""udq datasets: downloads from a local server, and checks of incomplete copies."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from udq import datasets
from udq.common.lock import Lock
from udq.datasets import GroundTruth, catalogue, check, instre, oxford_paris
from udq.datasets.catalogue import CATALOGUE
from udq.datasets.download.split import move_queries
from udq.errors import InputError


def error_line(err):
    """Return the only line on stderr that is an error message."""
    lines = [line for line in err.splitlines() if line.startswith("udq: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


# --- a server ------------------------------------------------------------------------------------------------------


class Server:
    """Serves files with ranges, cuts a connection once if told to, and records requests and responses.

    Attributes:
        files: name -> content.
        cut: number of bytes after which the next response ends, once.
        ranges: whether it supports ranges.
        version: how it identifies versions: "strong" or "weak" (ETag), "date", or None.
        shift: how many bytes after the requested one its ranges start.
        most: maximum number of bytes in a range.
        requests: path and range of each request.
        sent: status and number of bytes of each response.
    """

    def __init__(self):
        self.files, self.cut, self.ranges, self.requests = {}, None, True, []
        self.version, self.shift, self.most, self.sent = "strong", 0, None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.requests.append((self.path, wanted))
                content = outer.files.get(self.path.rpartition("/")[2])
                if content is None:
                    self.send_error(404)
                    return
                tag = f'"{hashlib.md5(content).hexdigest()}"'
                date = f"Thu, 01 Jan 1970 00:00:{len(content) % 60:02} GMT"
                version = {"strong": tag, "date": date}.get(outer.version)
                start, status = 0, 200
                # RFC 9110: without If-Range, the version does not matter.
                if wanted and outer.ranges and self.headers.get("If-Range", version) == version:
                    start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
                    if start >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(content)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        outer.sent.append((416, 0))
                        return
                    start += outer.shift
                last = len(content)
                if status == 206 and outer.most is not None:
                    last = min(last, start + outer.most)
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{last - 1}/{len(content)}")
                if outer.version in ("strong", "weak"):
                    self.send_header("ETag", tag if outer.version == "strong" else f"W/{tag}")
                elif outer.version == "date":
                    self.send_header("Last-Modified", date)
                self.send_header("Content-Length", str(last - start))
                self.end_headers()
                end = last if outer.cut is None else start + outer.cut
                outer.cut = None
                outer.sent.append((status, len(content[start:end])))
                self.wfile.write(content[start:end])

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mirror"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def tgz(members):
    """Return an archive of name -> bytes; a TarInfo as the value is added as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PHOTO = np.random.default_rng(0).bytes(300_000)  # incompressible, so that the archive is long enough to be cut


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    running = Server()
    running.files = {
        "oxbuild_images-v1.tgz": tgz({"all_souls_000013.jpg": PHOTO}),
        "gt_files_170407.tgz": tgz({"all_souls_1_query.txt": b"oxc1_all_souls_000013 1 2 3 4\n"}),
    }
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def get(udq, server, folder, *more):
    return udq("datasets", "download", "oxford5k", "-o", folder, "--mirror", server.url, "--yes", *more)


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


# --- downloads -----------------------------------------------------------------------------------------------------


def test_a_download_is_unpacked_and_its_checksums_are_recorded(udq, server, tmp_path):
    code, out, _ = get(udq, server, tmp_path / "ox", "--json")
    files = json.loads(out)["files"]

    assert code == 0
    assert (tmp_path / "ox" / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO
    assert (tmp_path / "ox" / "groundtruth" / "all_souls_1_query.txt").exists()
    digest = hashlib.sha256(server.files["oxbuild_images-v1.tgz"]).hexdigest()
    record = tmp_path / "ox" / "archives" / "oxbuild_images-v1.tgz.sha256"
    assert record.read_text() == f"{digest}  oxbuild_images-v1.tgz\n"
    assert files[0] == {"name": "oxbuild_images-v1.tgz", "sha256": digest, "into": str(tmp_path / "ox" / "photos")}
    assert not list((tmp_path / "ox" / "archives").glob("*.part*"))

    asked = len(server.requests)
    (tmp_path / "ox" / "photos" / "all_souls_000013.jpg").unlink()
    assert get(udq, server, tmp_path / "ox")[0] == 0
    assert len(server.requests) == asked  # existing files are not downloaded again
    assert (tmp_path / "ox" / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO


def test_a_cut_download_is_resumed(udq, server, tmp_path):
    server.cut = 100_000
    code, _, err = get(udq, server, tmp_path)
    assert code == 1
    assert "cut after 0.1 MB of 0.3 MB" in error_line(err)
    assert "are kept; run the same command to continue" in error_line(err)
    part = tmp_path / "archives" / "oxbuild_images-v1.tgz.part"
    assert part.stat().st_size == 100_000
    assert not (tmp_path / "photos").exists()

    code, _, _ = get(udq, server, tmp_path)
    assert code == 0
    assert server.requests[1] == ("/mirror/oxbuild_images-v1.tgz", "bytes=100000-")
    assert server.sent[1] == (206, len(server.files["oxbuild_images-v1.tgz"]) - 100_000)
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO


def test_an_incomplete_range_is_not_taken_for_the_whole_file(udq, server, tmp_path):
    server.cut, server.most = 100_000, 150_000
    get(udq, server, tmp_path)
    code, _, err = get(udq, server, tmp_path)
    assert code == 1
    assert "cut after 0.2 MB of 0.3 MB" in error_line(err)

    assert get(udq, server, tmp_path)[0] == 0
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO


@pytest.mark.parametrize("version", ["date", "weak", None])
def test_the_message_of_a_cut_download_predicts_the_next_one(udq, server, tmp_path, monkeypatch, version):
    server.version, server.cut = version, 100_000
    message = error_line(get(udq, server, tmp_path)[2])
    whole = len(server.files["oxbuild_images-v1.tgz"])
    if version == "date":
        assert "are kept; run the same command to continue" in message
    else:  # a weak ETag does not promise equal bytes
        assert "run the same command to start the file over" in message

    with monkeypatch.context() as patch:
        patch.setattr("udq.datasets.download.fetch", interrupted)
        message = error_line(get(udq, server, tmp_path)[2])
    assert ("oxbuild_images-v1.tgz starts over" in message) == (version != "date")

    assert get(udq, server, tmp_path)[0] == 0
    assert server.sent[1] == ((206, whole - 100_000) if version == "date" else (200, whole))
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO


def test_a_part_that_was_complete_when_killed_is_not_downloaded_again(udq, server, tmp_path, monkeypatch):
    whole = server.files["oxbuild_images-v1.tgz"]
    with monkeypatch.context() as patch:
        patch.setattr("udq.datasets.download._digest", interrupted)  # after the transfer, before the part is renamed
        assert get(udq, server, tmp_path)[0] == 130
    assert (tmp_path / "archives" / "oxbuild_images-v1.tgz.part").read_bytes() == whole

    assert get(udq, server, tmp_path)[0] == 0
    assert server.sent[:2] == [(200, len(whole)), (416, 0)]
    assert [path for path, _ in server.requests].count("/mirror/oxbuild_images-v1.tgz") == 2
    assert not list((tmp_path / "archives").glob("*.part*"))


def test_a_disk_error_does_not_blame_the_server(udq, server, tmp_path):
    (tmp_path / "archives" / "oxbuild_images-v1.tgz.part").mkdir(parents=True)
    code, _, err = get(udq, server, tmp_path)

    assert code == 1
    assert "oxbuild_images-v1.tgz.part: cannot be written" in error_line(err)
    assert server.url not in error_line(err)


@pytest.mark.parametrize("change", ["another version", "no ranges", "part too long", "no version", "another start"])
def test_a_part_that_cannot_be_resumed_starts_over(udq, server, tmp_path, change):
    server.cut = 100_000
    get(udq, server, tmp_path)
    part = tmp_path / "archives" / "oxbuild_images-v1.tgz.part"
    if change == "another version":
        server.files["oxbuild_images-v1.tgz"] = tgz({"all_souls_000013.jpg": PHOTO[::-1]})
    elif change == "no ranges":
        server.ranges = False
    elif change == "another start":
        server.shift = 10
    elif change == "part too long":
        part.write_bytes(bytes(900_000))
    else:
        part.with_name(part.name + ".version").unlink()
        part.write_bytes(bytes(100_000))
    code, _, _ = get(udq, server, tmp_path)

    assert code == 0
    expected = PHOTO[::-1] if change == "another version" else PHOTO
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == expected


def test_a_checksum_that_differs_is_refused(udq, server, tmp_path):
    get(udq, server, tmp_path)
    archive = tmp_path / "archives" / "oxbuild_images-v1.tgz"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    code, _, err = get(udq, server, tmp_path)
    assert code == 1
    assert "damaged or another version; delete it and run the command again" in error_line(err)

    archive.unlink()
    server.files["oxbuild_images-v1.tgz"] = tgz({"all_souls_000013.jpg": b"other"})
    code, _, err = get(udq, server, tmp_path)
    assert code == 1
    assert "expected sha256" in error_line(err)
    assert "it is kept as oxbuild_images-v1.tgz.new" in error_line(err)
    assert not archive.exists()
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO  # unchanged

    asked = len(server.requests)
    (tmp_path / "archives" / "oxbuild_images-v1.tgz.sha256").unlink()
    assert get(udq, server, tmp_path)[0] == 0
    assert len(server.requests) == asked  # the new file is used without another download
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == b"other"
    assert archive.exists()
    assert not list((tmp_path / "archives").glob("*.new"))


def test_nothing_is_downloaded_without_consent(udq, server, tmp_path, monkeypatch):
    code, out, err = udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--mirror", server.url)
    assert code == 2
    assert f"  {server.url}/oxbuild_images-v1.tgz" in err  # address and size, for the user to decide
    assert "about 1.9 GB" in err
    assert "give --yes" in error_line(err)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    code, _, err = udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--mirror", server.url)
    assert code == 2
    assert "you did not agree" in err
    assert out == ""
    assert server.requests == []
    assert not (tmp_path / "ox").exists()

    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--mirror", server.url)[0] == 0


def test_an_interrupted_download_says_how_to_continue(udq, server, tmp_path, monkeypatch):
    monkeypatch.setattr("udq.datasets.download.fetch", interrupted)
    code, _, err = get(udq, server, tmp_path)

    assert code == 130
    assert "interrupted; what was downloaded is kept; run the same command to continue" in error_line(err)


def test_files_from_a_folder_need_no_network(udq, server, tmp_path):
    (tmp_path / "usb").mkdir()
    for name, content in server.files.items():
        (tmp_path / "usb" / name).write_bytes(content)
    code, _, _ = udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--from", tmp_path / "usb")

    assert code == 0
    assert server.requests == []
    assert (tmp_path / "ox" / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO

    (tmp_path / "usb" / "gt_files_170407.tgz").rename(tmp_path / "usb" / "gt_files_170407.tgz.part")
    code, _, err = udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--from", tmp_path / "usb")
    assert code == 2
    assert "expected gt_files_170407.tgz, found half of it" in error_line(err)

    code, _, err = udq("datasets", "download", "oxford5k", "-o", tmp_path / "new", "--from", tmp_path / "usb")
    assert code == 2
    assert not (tmp_path / "new").exists()  # nothing is unpacked unless all files exist


def write_truth(file):
    """Write a ground truth of one query and one photo as gnd_roxford5k.mat."""
    gnd = np.empty((1, 1), [(name, object) for name in ("easy", "hard", "junk", "bbx")])
    gnd[0, 0] = tuple(np.array([values]) for values in ([1], [], [], [1, 2, 3, 4]))
    database, queries = np.array([["oxford_000001"]], object), np.array([["all_souls_000013"]], object)
    scipy.io.savemat(file, {"imlist": database, "qimlist": queries, "gnd": gnd})


def test_query_photos_outside_the_database_are_moved_to_queries(udq, server, tmp_path, picture):
    buffer = io.BytesIO()
    write_truth(buffer)
    server.files = {
        "oxbuild_images-v1.tgz": tgz({"all_souls_000013.jpg": picture, "oxford_000001.jpg": picture}),
        "gnd_roxford5k.mat": buffer.getvalue(),
    }
    for _ in range(2):  # the second run has nothing to move
        code, out, _ = udq("datasets", "download", "roxford5k", "-o", tmp_path, "--mirror", server.url, "--yes")

        assert code == 0
        assert "index photos/ only" in out
        assert [path.name for path in (tmp_path / "photos").iterdir()] == ["oxford_000001.jpg"]
        assert [path.name for path in (tmp_path / "queries").iterdir()] == ["all_souls_000013.jpg"]
        assert (tmp_path / "gnd_roxford5k.mat").exists()


def test_the_python_code_of_the_docs_moves_query_photos(tmp_path, picture):
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n((?:(?!```).)*?move_queries.*?)^```", page, re.DOTALL | re.MULTILINE)
    write_truth(tmp_path / "gnd_roxford5k.mat")
    (tmp_path / "photos" / "jpg").mkdir(parents=True)
    for name in ("all_souls_000013", "oxford_000001"):
        (tmp_path / "photos" / "jpg" / f"{name}.jpg").write_bytes(picture)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == "1 query photos moved\n"
    assert (tmp_path / "queries" / "jpg" / "all_souls_000013.jpg").exists()
    assert not (tmp_path / "photos" / "jpg" / "all_souls_000013.jpg").exists()


def test_query_photos_are_never_moved_into_the_database(tmp_path):
    with pytest.raises(InputError, match="expected a folder outside"):
        move_queries(GroundTruth("instre", ()), tmp_path, tmp_path / "queries")


def test_half_an_archive_is_an_error_of_one_line(udq, server, tmp_path):
    server.files["oxbuild_images-v1.tgz"] = server.files["oxbuild_images-v1.tgz"][:200_000]
    code, _, err = get(udq, server, tmp_path)

    assert code == 1
    assert "not a whole archive" in error_line(err)
    assert not list((tmp_path / "archives").glob("*.tgz*"))  # no checksum is recorded for an incomplete archive

    server.files["oxbuild_images-v1.tgz"] = tgz({"all_souls_000013.jpg": PHOTO})
    assert get(udq, server, tmp_path)[0] == 0
    assert (tmp_path / "photos" / "all_souls_000013.jpg").read_bytes() == PHOTO


def test_a_web_page_instead_of_a_ground_truth_or_archive_leaves_no_checksum(udq, server, tmp_path, picture):
    server.files = {"oxbuild_images-v1.tgz": tgz({"a.jpg": picture}), "gnd_roxford5k.mat": b"<html>log in</html>"}
    code, _, err = udq("datasets", "download", "roxford5k", "-o", tmp_path / "ox", "--mirror", server.url, "--yes")
    assert code == 1
    assert "expected the MATLAB file" in error_line(err)
    assert not list((tmp_path / "ox" / "archives").glob("gnd*"))

    server.files = {"oxc1_100k.part01.rar": b"<html>log in</html>"}
    code, _, err = udq("datasets", "download", "flickr100k", "-o", tmp_path / "fl", "--mirror", server.url, "--yes")
    assert code == 1
    assert "not a RAR archive" in error_line(err)
    assert not list((tmp_path / "fl" / "archives").glob("*.rar*"))


def test_a_damaged_file_of_the_user_is_not_deleted(udq, server, tmp_path):
    (tmp_path / "usb").mkdir()
    for name, content in server.files.items():
        (tmp_path / "usb" / name).write_bytes(content[:200_000])
    code, _, err = udq("datasets", "download", "oxford5k", "-o", tmp_path / "ox", "--from", tmp_path / "usb")

    assert code == 1
    assert "copy it again from" in error_line(err)
    assert "delete" not in error_line(err)
    assert (tmp_path / "usb" / "oxbuild_images-v1.tgz").exists()
    assert not list((tmp_path / "ox" / "archives").glob("*.sha256"))


@pytest.mark.parametrize("kind", ["hard link to nothing", "a name with NUL"])
def test_a_member_that_is_not_unpacked_is_an_error_of_one_line(udq, server, tmp_path, kind):
    info = tarfile.TarInfo("photo.jpg")
    if kind == "a name with NUL":
        info.pax_headers = {"path": "a\0b.jpg"}
    else:
        info.type, info.linkname = tarfile.LNKTYPE, "nothing.jpg"
    server.files["oxbuild_images-v1.tgz"] = tgz({"photo.jpg": info})
    code, _, err = get(udq, server, tmp_path)

    assert code == 1
    assert "oxbuild_images-v1.tgz: is not unpacked, for safety: " in error_line(err)


def test_two_downloads_to_one_folder_are_refused(udq, server, tmp_path):
    with Lock(tmp_path / "archives", tmp_path, doing="downloading to it"):
        code, _, err = get(udq, server, tmp_path)
    assert code == 2
    assert re.search(r"another udq \(process \d+ on .*\) is downloading to it; wait", error_line(err))
    assert server.requests == []

    assert get(udq, server, tmp_path)[0] == 0


def test_a_folder_holds_one_data_set(udq, server, tmp_path):
    assert get(udq, server, tmp_path)[0] == 0
    asked = len(server.requests)
    code, _, err = udq("datasets", "download", "roxford5k", "-o", tmp_path, "--mirror", server.url)

    assert code == 2  # before any request
    assert "expected a folder for roxford5k, found one of oxford5k" in error_line(err)
    assert len(server.requests) == asked


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "link alone"])
def test_an_archive_that_would_write_outside_the_folder_is_refused(udq, server, tmp_path, kind):
    if kind.startswith("link"):
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "../../elsewhere"
        members = {"out": link} if kind == "link alone" else {"out": link, "out/evil.txt": b"evil"}
    else:
        members = {"../evil.txt" if kind == "parent" else str(tmp_path / "elsewhere" / "evil.txt"): b"evil"}
    server.files["oxbuild_images-v1.tgz"] = tgz(members)
    (tmp_path / "elsewhere").mkdir()
    code, _, err = get(udq, server, tmp_path / "ox")

    assert not list(tmp_path.rglob("evil.txt")) or kind == "absolute"
    assert not list((tmp_path / "elsewhere").iterdir())
    if kind != "absolute":  # its leading slash is dropped, so it stays below the folder
        assert code == 1
        assert "is not unpacked, for safety" in error_line(err)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["oxford5k", "--mirror", "{url}/none", "--yes"], 1, "the server says 404"),
        (["oxford5k", "--mirror", "http://127.0.0.1:9", "--yes"], 1, "refused"),
        (["oxford5k", "--mirror", "file:///etc", "--yes"], 2, "an address that begins with https://"),
        (["oxford5k", "--mirror", "http://[::1"], 2, "not an address"),
        (["oxford5k", "--mirror", "http://127.0.0.1:x"], 2, "not an address"),
        (["oxford5k", "--mirror", "http://h\u00f6st"], 2, "in ASCII"),
        (["oxford5k", "--mirror", "http://127.0.0.1:1/\u00e9", "--yes"], 1, "/%C3%A9/oxbuild_images-v1.tgz: "),
        (["oxford5k", "--mirror", "HTTP://127.0.0.1:1", "--yes"], 1, "http://127.0.0.1:1/oxbuild_images-v1.tgz: "),
        (["oxford", "--yes"], 2, "data set 'oxford': expected one of oxford5k, paris6k"),
        (["oxford5k", "--from", "{tmp}/none"], 2, "found no folder"),
        (["oxford5k", "--from", "{tmp}", "--mirror", "{url}"], 2, "expected one of them, found both"),
    ],
)
def test_errors_of_a_download_are_one_line(udq, server, tmp_path, arguments, code, says):
    if "404" in says:
        server.files = {}
    places = {"url": server.url, "tmp": tmp_path}
    arguments = [argument.format(**places) for argument in arguments]
    found, _, err = udq("datasets", "download", "-o", tmp_path / "ox", *arguments)

    assert found == code
    assert says in error_line(err)
    assert code == 1 or not (tmp_path / "ox").exists()


# --- the catalogue -------------------------------------------------------------------------------------------------


def test_the_list_shows_counts_and_addresses(udq):
    code, out, _ = udq("datasets", "list")
    assert code == 0
    for each in CATALOGUE.values():
        assert f"{each.photos:,}" in out
        assert each.page in out

    found = {each["name"]: each for each in json.loads(udq("datasets", "list", "--json")[1])["datasets"]}
    assert found["oxford5k"]["files"][0].endswith("/oxbuild_images-v1.tgz")
    # Photos of the database, as in the protocols; query photos outside it are counted apart.
    for name, load in datasets.REGISTRY.items():
        if name != "boxes":
            photos = instre._PHOTOS if name == "instre" else load.keywords["photos"]
            queries = len(catalogue.photo_names(CATALOGUE[name].names)) - photos if CATALOGUE[name].names else 1250
            assert (found[name]["photos"], found[name]["queries"] * found[name]["queries_apart"]) == (photos, queries)
    assert found["roxford5k"]["photos"] == 4993
    assert found["flickr100k"]["size"] is None  # its official page does not say


def test_the_docs_name_every_json_key(udq):
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    listed = json.loads(udq("datasets", "list", "--json")[1])
    checked = check.Findings("oxford5k", "ox", 0, 0, (), ()).to_json()
    for key in ("datasets", *listed["datasets"][0], *checked, "sha256", "into"):
        assert f"`{key}`" in page


def test_the_lists_of_photo_names_are_complete():
    counts = {name: len(set(catalogue.photo_names(name))) for name in ("oxford5k", "paris6k", "flickr100k")}

    assert counts == {"oxford5k": 5063, "paris6k": 6392, "flickr100k": 100070}


@pytest.mark.shared_data
def test_the_lists_of_photo_names_are_the_official_ones(shared_data):
    folder = shared_data / "groundtruth"
    for name, file in (("oxford5k", "oxford5k_imlist.txt"), ("paris6k", "paris6k_imlist.txt"),
                       ("flickr100k", "flickr100k_distractor_list.txt")):  # fmt: skip
        assert set(catalogue.photo_names(name)) == set((folder / file).read_text().split()) - {"test"}
    for name in ("oxford5k", "paris6k"):
        content = scipy.io.loadmat(folder / "mat" / f"gnd_r{name}.mat")
        both = [str(cell[0]) for part in ("imlist", "qimlist") for cell in content[part].ravel()]
        assert sorted(both) == sorted(catalogue.photo_names(name))


# --- checks --------------------------------------------------------------------------------------------------------


def write_answers(folder, landmarks):
    """Write five queries per landmark."""
    folder.mkdir(parents=True)
    for landmark in landmarks:
        for number in range(1, 6):
            for kind, text in (("query", "oxc1_a 1 2 3 4"), ("good", "a"), ("ok", ""), ("junk", "")):
                (folder / f"{landmark}_{number}_{kind}.txt").write_text(text)


def test_a_copy_is_whole_or_its_faults_are_listed(udq, tmp_path, picture):
    (tmp_path / "jpg").mkdir()
    for name in catalogue.photo_names("oxford5k"):
        (tmp_path / "jpg" / f"{name}.jpg").write_bytes(picture)
    (tmp_path / "jpg" / "mine.jpg").write_bytes(picture)
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")
    assert code == 1  # without a ground truth nothing can be evaluated
    assert "oxford5k is not whole: groundtruth/ is missing; give --ground-truth" in error_line(err)
    assert "datasets download" not in error_line(err)
    for dataset in ("roxford5k", "rparis6k"):
        assert f"gnd_{dataset}.mat is missing" in udq("datasets", "check", tmp_path, "--dataset", dataset)[2]

    write_answers(tmp_path / "deep" / "gt_files", oxford_paris.PARIS)
    write_answers(
        tmp_path / "gt", oxford_paris.OXFORD
    )  # the one of this data set is chosen of the two below the folder
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")
    assert code == 0
    assert "5,063 of 5,063 files" in out
    assert "1 other photo, which does not" in out

    (tmp_path / "jpg" / "all_souls_000013.jpg").unlink()
    (tmp_path / "jpg" / "keble_000245.jpg").write_bytes(picture[: len(picture) // 2])
    code, out, err = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")
    assert code == 1
    assert "5,062 of 5,063 files" in out
    assert "missing: all_souls_000013" in out
    assert "keble_000245.jpg: " in out
    assert "oxford5k is not whole: 1 missing; 1 unreadable" in error_line(err)
    assert "'udq datasets download oxford5k -o FOLDER' downloads and unpacks it again" in error_line(err)

    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "roxford5k", "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["expected"], found["found"], found["missing"]) == (5063, 5062, ["all_souls_000013"])
    assert found["whole"] is False
    assert "keble_000245.jpg" in found["unreadable"][0]


def test_photos_broken_in_the_official_archives_are_no_fault_of_the_copy(udq, tmp_path, picture, monkeypatch):
    monkeypatch.setattr("udq.datasets.check.photo_names", lambda name: ["paris_louvre_000135"])
    (tmp_path / "paris" / "louvre").mkdir(parents=True)
    (tmp_path / "paris" / "louvre" / "paris_louvre_000135.jpg").write_bytes(picture)
    (tmp_path / "paris" / "louvre" / "paris_louvre_000136.jpg").write_bytes(b"")
    write_answers(tmp_path / "groundtruth", oxford_paris.PARIS)
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "paris6k", "--json")
    found = json.loads(out)

    assert code == 0
    assert (found["expected"], found["found"], found["others"]) == (1, 1, 0)
    assert "paris_louvre_000136.jpg: empty file" in found["known"][0]


def test_unreadable_distractors_are_listed_and_not_fatal(udq, tmp_path, picture, monkeypatch):
    monkeypatch.setattr("udq.datasets.check.photo_names", lambda name: ["red_000001", "red_000002"])
    (tmp_path / "oxc1_100k" / "red").mkdir(parents=True)
    (tmp_path / "oxc1_100k" / "red" / "red_000001.jpg").write_bytes(picture)
    (tmp_path / "oxc1_100k" / "red" / "red_000002.jpg").write_bytes(b"<html>")
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "flickr100k")

    assert code == 0
    assert "broken in the official archives too: " in out
    assert "red_000002.jpg" in out

    (tmp_path / "oxc1_100k" / "red" / "red_000001.jpg").unlink()
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "flickr100k")
    assert code == 1
    assert error_line(err).endswith("flickr100k is not whole: 1 missing")  # a download does not unpack RAR


def test_an_incomplete_ground_truth_is_a_fault(udq, tmp_path, monkeypatch):
    monkeypatch.setattr("udq.datasets.check.photo_names", lambda name: [])
    (tmp_path / "groundtruth").mkdir()
    for kind, text in (("query", "oxc1_a 1 2 3 4"), ("good", "a"), ("ok", ""), ("junk", "")):
        (tmp_path / "groundtruth" / f"keble_1_{kind}.txt").write_text(text)
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")
    assert code == 1
    assert "expected 55 queries, found 1" in error_line(err)
    assert "datasets download" not in error_line(err)  # downloading does not help against a wrong --ground-truth

    (tmp_path / "groundtruth" / "keble_1_query.txt").write_text("oxc1_a")
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")
    assert code == 1
    assert "expected a photo and its box" in error_line(err)


def test_instre_is_checked_by_its_ground_truth(udq, tmp_path, picture):
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "instre")
    assert code == 2
    assert "expected gnd_instre.mat there" in error_line(err)

    gnd = np.empty((1, 1), [("ok", object), ("bbx", object)])
    gnd[0, 0]["ok"], gnd[0, 0]["bbx"] = np.array([[1]]), np.array([[1, 2, 3, 4]])
    database = np.array([["INSTRE-M/01/001.jpg", "INSTRE-M/01/002.jpg"]], object)
    queries = np.array([["INSTRE-M/01/003.jpg"]], object)
    scipy.io.savemat(tmp_path / "gnd_instre.mat", {"imlist": database, "qimlist": queries, "gnd": gnd})
    (tmp_path / "INSTRE-M" / "01").mkdir(parents=True)
    for number in (1, 3):
        (tmp_path / "INSTRE-M" / "01" / f"{number:03}.jpg").write_bytes(picture)
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "instre", "--json")
    assert code == 1
    assert json.loads(out)["missing"] == ["INSTRE-M/01/002.jpg"]


def test_voc_is_checked_by_its_own_lists(udq, tmp_path, picture):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    identifiers = [f"{i:06}" for i in range(1, 9964)]
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(identifiers[:5011]))
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(identifiers[5011:]))
    for each in identifiers[:50]:
        (root / "JPEGImages" / f"{each}.jpg").write_bytes(picture)
        (root / "Annotations" / f"{each}.xml").write_text("<annotation/>")
    (root / "Annotations" / "000001.xml").unlink()
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "voc2007", "--json")
    found = json.loads(out)

    assert code == 1
    assert (found["expected"], found["found"], found["faults"]) == (2 * 9963, 99, [])
    assert found["missing"][:2] == ["Annotations/000001.xml", "Annotations/000051.xml"]

    (root / "ImageSets" / "Main" / "test.txt").unlink()
    assert (
        "test.txt: expected a list of 4,952 photos, found 0"
        in udq("datasets", "check", root, "--dataset", "voc2007")[2]
    )


def test_a_list_that_is_not_text_is_a_fault(udq, tmp_path):
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_bytes(b"\xff\xfe0")
    code, _, err = udq("datasets", "check", tmp_path, "--dataset", "voc2007")

    assert code == 1
    assert "trainval.txt: expected text, found other bytes; test.txt: expected a list" in error_line(err)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
def test_a_name_that_is_not_utf8_is_a_photo_that_does_not_belong_to_a_data_set(udq, tmp_path, picture):
    (tmp_path / "all_souls_000013.jpg").write_bytes(picture)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(picture)
    code, out, _ = udq("datasets", "check", tmp_path, "--dataset", "oxford5k")

    assert code == 1
    assert "oxford5k, 1 of 5,063 files" in out
    assert "1 other photo, which does not belong to it" in out


def test_a_downloaded_folder_is_marked_with_its_data_set(udq, server, tmp_path):
    get(udq, server, tmp_path)
    assert b"\r" not in (tmp_path / "dataset.txt").read_bytes()
    code, _, err = udq("datasets", "check", tmp_path)

    assert code == 1
    assert "oxford5k is not whole: 5062 missing" in error_line(err).replace(",", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{tmp}"], "give --dataset NAME"),
        (["{tmp}", "--dataset", "flickr100k", "--ground-truth", "{tmp}"], "no ground truth; leave it out"),
        (["{tmp}", "--dataset", "voc2007", "--ground-truth", "{tmp}"], "no ground truth; leave it out"),
        (["{tmp}/none", "--dataset", "oxford5k"], "found no folder"),
        (["{tmp}", "--dataset", "oxford"], "expected one of oxford5k"),
        (["{tmp}", "--dataset", "voc2007"], "expected the layout of VOC2007"),
    ],
)
def test_errors_of_a_check_are_one_line(udq, tmp_path, arguments, says):
    code, _, err = udq("datasets", "check", *(argument.format(tmp=tmp_path) for argument in arguments))

    assert code == 2
    assert says in error_line(err)


def test_help_has_an_example_for_every_command(udq):
    assert udq("datasets")[1] == udq("datasets", "--help")[1]
    for command in ("list", "download", "check"):
        code, out, _ = udq("datasets", command, "--help")
        assert code == 0
        assert f"Example: udq datasets {command}" in out
