"""udq datasets download over FTP, from a server of our own: INSTRE's official address is one."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from udq.datasets.download import transfer
from udq.datasets.download.fetching import fetch, mark_of
from udq.errors import UdqError

CONTENT = bytes(range(256)) * 16_000  # 4 MB


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of one file, ``corpus/photos.tar``; ``cut`` ends the next transfer after so many bytes."""
    for variable in ("ftp_proxy", "FTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(transfer, "_TIMEOUT_S", 2)  # of a server that says nothing after it cut a transfer
    home = tmp_path / "served"
    (home / "corpus").mkdir(parents=True)
    file = home / "corpus" / "photos.tar"
    file.write_bytes(CONTENT)
    running = SimpleNamespace(file=file, cut=None, asked=[], refused=set())

    class Data(DTPHandler):
        def send(self, data):
            if running.cut is not None:
                running.cut -= len(data)
                if running.cut <= 0:
                    running.cut = None
                    self.close()
                    return 0
            return super().send(data)

    class Handler(FTPHandler):
        use_sendfile = False
        dtp_handler = Data

        def pre_process_command(self, line, command, argument):
            running.asked.append(f"{command} {argument}".strip())
            if command in running.refused:
                self.respond("502 Command not implemented.")
                return
            super().pre_process_command(line, command, argument)

    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(str(home))
    handler = type("Ours", (Handler,), {"authorizer": authorizer})
    loop = IOLoop()
    listening = FTPServer(("127.0.0.1", 0), handler, ioloop=loop)
    running.url = f"ftp://127.0.0.1:{listening.address[1]}/corpus/photos.tar"
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            listening.serve_forever(timeout=0.02, blocking=False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield running
    stop.set()
    thread.join()
    listening.close_all()


@pytest.fixture
def part(tmp_path):
    return tmp_path / "photos.tar.part"


def cut(server, part):
    """Begin a download whose line is cut, and return what the error says."""
    server.cut = 1_500_000
    with pytest.raises(UdqError) as refused:
        fetch(server.url, part)
    server.asked.clear()
    assert 0 < part.stat().st_size < len(CONTENT)
    return str(refused.value)


def test_a_file_comes_whole_over_ftp(server, part):
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT


def test_a_cut_download_goes_on_where_it_stopped_over_ftp(server, part):
    said = cut(server, part)
    assert "of 4.1 MB" in said
    assert "the same command goes on from there" in said
    kept = part.stat().st_size
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT
    assert f"REST {kept}" in server.asked


def test_a_whole_part_is_not_fetched_again_over_ftp(server, part):
    fetch(server.url, part)
    server.asked.clear()
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT
    assert not [line for line in server.asked if line.startswith("RETR")]


@pytest.mark.parametrize("change", ["another version", "no MDTM", "no REST", "part too long"])
def test_a_part_that_cannot_be_continued_is_begun_anew_over_ftp(server, part, change):
    wanted = CONTENT
    if change == "no MDTM":
        server.refused.add("MDTM")
    said = cut(server, part)
    assert ("the same command begins the file anew" in said) == (change == "no MDTM")
    if change == "another version":
        wanted = CONTENT[::-1] + b"longer"
        server.file.write_bytes(wanted)
    elif change == "no REST":
        server.refused.add("REST")
    elif change == "part too long":
        part.write_bytes(CONTENT * 2)
    fetch(server.url, part)

    assert part.read_bytes() == wanted
    assert mark_of(part).exists() == (change != "no MDTM")


def test_a_server_without_sizes_says_itself_whether_that_was_all(server, part):
    server.refused.add("SIZE")
    assert "came, but this server cannot go on from there" in cut(server, part)
    fetch(server.url, part)
    assert part.read_bytes() == CONTENT


def test_what_cannot_be_fetched_over_ftp_is_one_line_and_keeps_what_came(server, part):
    cut(server, part)
    kept = part.read_bytes()
    server.refused.add("USER")  # as where too many are there already
    with pytest.raises(UdqError, match="the server says 502"):
        fetch(server.url, part)
    assert part.read_bytes() == kept

    server.refused.clear()
    with pytest.raises(UdqError, match=r"the server says 550 .*; check the data set's page"):
        fetch(f"{server.url}.gz", part.with_name("other.part"))
    with pytest.raises(UdqError, match="newline"):
        fetch(f"{server.url}%0D%0ADELE%20x", part.with_name("other.part"))
    with pytest.raises(UdqError, match="refused; try again"):
        fetch("ftp://127.0.0.1:9/x.tar", part.with_name("other.part"))


def test_a_disk_without_room_is_not_blamed_on_the_ftp_server(server, part):
    part.mkdir()
    with pytest.raises(UdqError, match=r"photos\.tar\.part: cannot be written"):
        fetch(server.url, part)


def test_ftp_goes_through_the_proxy_of_the_environment(monkeypatch):
    asked = []
    monkeypatch.setenv("ftp_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(transfer, "_by_http", lambda url, *facts: asked.append(url))
    transfer.ask("ftp://ftp.example.org/x.tar", 0, "")

    assert asked == ["ftp://ftp.example.org/x.tar"]
