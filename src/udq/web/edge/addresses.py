"""Addresses of the server: hosts to listen on, Host headers, outer origins and the path below which it is served."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from udq.common.text import shown
from udq.errors import InputError

# A Host header: a name, an IPv4 address or an IPv6 address in brackets, and optionally a port. Nothing else: a URL
# parser would find 127.0.0.1 in evil@127.0.0.1 and in 127.0.0.1/evil as well.
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{0,5})?", re.ASCII)
_ROOT = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# First segments of the server's own paths.
_OWN = ("api", "healthz", "readyz", "metrics")


def unbracketed(host: str) -> str:
    """Return a host without the brackets that an IPv6 address has in URLs: ``[::1]`` is ``::1``."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(unbracketed(host)).is_loopback
    except ValueError:
        return False


def name_in(host: str | None) -> str | None:
    """Return the name or address in a Host header, in lower case and without port and brackets; None if invalid."""
    match = _HOST.fullmatch(host or "")
    return None if match is None else (match["v6"] or match["name"]).lower()


def origin_of(url: str) -> str:
    """Return the origin of ``--origin URL`` as browsers write it: scheme, host in lower case, port unless default.

    Raises:
        InputError: not the address of a host, such as an address with a path.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    name = name_in(parts.netloc)
    if (
        parts.scheme not in _DEFAULT_PORTS
        or name is None
        or (parts.path or "/") != "/"
        or parts.query
        or parts.fragment
    ):
        raise InputError(
            f"--origin {shown(url)}: expected scheme, host and perhaps a port as in the browser's address bar, such as "
            "https://photos.example.org; a path belongs into --root-path"
        )
    host = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def root_path_of(path: str) -> str:
    """Return ``--root-path PATH`` without a slash at its end: ``/udq``, or an empty string for the root.

    Raises:
        InputError: not an absolute path of plain segments, or one that is ambiguous with the server's own paths.
    """
    root = path.strip().rstrip("/")
    segments = root.split("/")[1:]
    if root and (_ROOT.fullmatch(root) is None or {".", ".."} & set(segments)):
        raise InputError(
            f"--root-path {shown(path)}: expected a path of letters, digits and -._~ that begins with a slash, such as "
            "/udq"
        )
    if segments and segments[0] in _OWN:
        raise InputError(
            f"--root-path {shown(path)}: /{segments[0]} is a path of the server itself; use another one, such as /udq"
        )
    return root


def url_of(host: str, port: int, root_path: str = "") -> str:
    """Return the URL of the page for an address that the server listens on; for "all addresses", the loopback one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{host}]'.replace('%', '%25') if ':' in host else host}:{port}{root_path}/"
