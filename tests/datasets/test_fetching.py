"""Downloads over FTP, the protocol of INSTRE's official address, from a local server."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from udq.datasets.download import transfer
from udq.datasets.download.fetching import fetch, version_file
from udq.errors import UdqError

CONTENT = bytes(range(256)) * 16_000  # 4 MB


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of one file, ``corpus/photos.tar``; ``cut`` is the number of bytes sent by the next transfer."""
    for variable in ("ftp_proxy", "FTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(transfer, "_TIMEOUT_S", 2)  # the server is silent after it cuts a transfer
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
    """Start a download that is cut, and return the error message."""
    server.cut = 1_500_000
    with pytest.raises(UdqError) as refused:
        fetch(server.url, part)
    server.asked.clear()
    assert 0 < part.stat().st_size < len(CONTENT)
    return str(refused.value)


def test_a_file_is_downloaded_over_ftp(server, part):
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT


def test_a_cut_download_is_resumed_over_ftp(server, part):
    message = cut(server, part)
    assert "of 4.1 MB" in message
    assert "are kept; run the same command to continue" in message
    kept = part.stat().st_size
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT
    assert f"REST {kept}" in server.asked


def test_a_complete_part_is_not_downloaded_again_over_ftp(server, part):
    fetch(server.url, part)
    server.asked.clear()
    fetch(server.url, part)

    assert part.read_bytes() == CONTENT
    assert not [line for line in server.asked if line.startswith("RETR")]


@pytest.mark.parametrize("change", ["another version", "no MDTM", "no REST", "part too long"])
def test_a_part_that_cannot_be_resumed_starts_over_over_ftp(server, part, change):
    wanted = CONTENT
    if change == "no MDTM":
        server.refused.add("MDTM")
    message = cut(server, part)
    assert ("run the same command to start the file over" in message) == (change == "no MDTM")
    if change == "another version":
        wanted = CONTENT[::-1] + b"longer"
        server.file.write_bytes(wanted)
    elif change == "no REST":
        server.refused.add("REST")
    elif change == "part too long":
        part.write_bytes(CONTENT * 2)
    fetch(server.url, part)

    assert part.read_bytes() == wanted
    assert version_file(part).exists() == (change != "no MDTM")


def test_without_sizes_the_final_reply_says_whether_the_file_is_complete(server, part):
    server.refused.add("SIZE")
    assert "were downloaded, but this server cannot resume" in cut(server, part)
    fetch(server.url, part)
    assert part.read_bytes() == CONTENT


def test_errors_over_ftp_are_one_line_and_keep_the_part(server, part):
    cut(server, part)
    kept = part.read_bytes()
    server.refused.add("USER")  # as by a server with too many users
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


def test_a_disk_error_does_not_blame_the_ftp_server(server, part):
    part.mkdir()
    with pytest.raises(UdqError, match=r"photos\.tar\.part: cannot be written"):
        fetch(server.url, part)


def test_ftp_goes_through_the_proxy_of_the_environment(monkeypatch):
    asked = []
    monkeypatch.setenv("ftp_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(transfer, "_by_http", lambda url, *facts: asked.append(url))
    transfer.request("ftp://ftp.example.org/x.tar", 0, "")

    assert asked == ["ftp://ftp.example.org/x.tar"]
