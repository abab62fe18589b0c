"""`udq serve`: its options, its socket, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from clients import TOKEN, bytes_of

from udq.web.edge.listening import listening


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach this address; set a token"),
        (["--host", "0.0.0.0", "--token", "short"], "--token: expected 16 or more"),
        (["--token", "ünmöglich-zu-erraten"], "--token: expected 16 or more"),
        (["--allow-write", "nowhere"], "--allow-write nowhere: expected an existing, writable folder"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "no address to listen on"),
        (["--host", "[::]"], "--host ::: other machines can reach this address; set a token"),
        (["--origin", "photos.example.org"], "--origin photos.example.org: expected scheme, host"),
        (["--origin", "https://a.example", "--origin", "https://b.example/udq"], "a path belongs into --root-path"),
        (["--root-path", "udq"], "--root-path udq: expected a path of letters"),
    ],
)
def test_invalid_options_are_one_line(udq, collection, options, says):
    code, out, err = udq("serve", collection.path, *options)

    assert (code, out) == (2, "")
    assert err.startswith("udq: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_line(udq, collection):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = udq("serve", collection.path, "--port", port)

    expected = f"port {port} is in use, perhaps by another udq serve; use another one with --port, or 0 for a free one"
    assert (code, err) == (2, f"udq: {expected}\n")


def test_small_responses_are_sent_at_once():
    """Without TCP_NODELAY, each response waits 40 ms for the client to acknowledge the headers."""
    with listening("127.0.0.1", 0) as (listener,), socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # for which asyncio sets TCP_NODELAY


def test_the_command_serves_until_ctrl_c(collection, tmp_path):
    """With the options of a proxy, on every address of localhost."""
    command = [sys.executable, "-c", "from udq.cli.main import main; main()", "serve", collection.path, "--port", "0"]
    command += ["--host", "localhost", "--origin", "http://photos.example.org/", "--root-path", "/udq/"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        ready = process.stdout.readline()
        address = ready.split()[-1]
        assert ready.startswith(f"{collection.path}: 12 photos at http://localhost:")
        assert address.endswith("/udq/")
        assert process.stdout.readline() == "behind a proxy: http://photos.example.org/udq/\n"
        for origin, status in (("http://photos.example.org", 201), ("http://evil.example", 403)):
            files, headers = {"file": bytes_of("x.png")}, {"origin": origin}
            assert httpx.post(f"{address}api/v1/uploads", files=files, headers=headers).status_code == status
        assert len(list(tmp_path.glob("udq-serve-*/*"))) == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out.splitlines()[-1], err) == (0, "stopped", "")
    assert list(tmp_path.iterdir()) == []
