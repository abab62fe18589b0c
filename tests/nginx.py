"""The set-ups with nginx that docs/serve.md documents, and real nginx processes that run them."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

MANUAL = Path(__file__).resolve().parents[1] / "docs" / "serve.md"
INSTALLED = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")  # which users may not have in their PATH


@dataclass
class Setup:
    """A documented set-up: the command of udq and the server block of nginx."""

    command: str
    block: str

    def option(self, name):
        found = re.search(rf"{name} (\S+)", self.command)
        return found.group(1) if found else ""

    @property
    def host(self):
        return re.search(r"server_name (\S+);", self.block).group(1)


def documented():
    """Heading -> set-up, for every one below "Behind a proxy"."""
    text = MANUAL.read_text(encoding="utf-8").partition("\n## Behind a proxy\n")[2].partition("\n## ")[0]
    found = {}
    for part in text.split("\n### ")[1:]:
        heading, _, rest = part.partition("\n")
        code = [
            block for block in re.split(r"\n(?=\S)|\n\n(?! )", rest) if block.strip().startswith(("udq", "server {"))
        ]
        lines = "\n".join(code)
        if "server {" in lines:
            command, _, block = lines.partition("server {")
            found[heading] = Setup(command.strip(), "server {" + block)
    return found


def free_port():
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextlib.contextmanager
def running(setup, folder, inner_port, port):
    """Run nginx on a port with a set-up whose server listens on ``inner_port``; yield its certificate's file.

    Ports and files of the documented block are replaced, nothing else.
    """
    if INSTALLED is None:
        pytest.skip("nginx is not installed, such as Debian's package nginx")
    certificate = certify(setup, folder) if "ssl" in setup.block else None
    block = re.sub(r"listen \d+", f"listen 127.0.0.1:{port}", setup.block)
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{inner_port}")
    block = re.sub(r"ssl_certificate \S+;", f"ssl_certificate {certificate};", block)
    block = re.sub(r"ssl_certificate_key \S+;", f"ssl_certificate_key {folder / 'key.pem'};", block)
    temporary = "".join(f"{each}_temp_path {folder}/{each};\n" for each in TEMPORARY)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{block}\n}}\n"
    )
    process = subprocess.Popen(
        [INSTALLED, "-p", folder, "-c", configuration, "-e", "stderr"], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
        yield certificate
    finally:
        process.terminate()
        process.communicate(timeout=20)


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def certify(setup, folder):
    """Make a self-signed certificate for the host of a set-up; return its file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    certificate = folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={setup.host}",
         "-addext", f"subjectAltName=DNS:{setup.host}", "-keyout", folder / "key.pem", "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate
