"""A server below a path of another one, such as ``https://example.org/udq/``."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SubPath:
    """ASGI middleware below which all paths begin at the root.

    Proxies either remove the path from requests or leave it there; both are understood. ``Location`` in responses
    becomes an absolute path of the outer server.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """Wrap an application; ``root_path`` is as ``addresses.root_path_of`` returns it."""
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application with the path that it has there."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, root = scope["path"], self._root_path or scope.get("root_path", "")  # Ray Serve has its own

        async def send_located(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = _outer(headers["location"], root)
            await send(message)

        if root and path == root:  # the page's addresses are relative to the slash
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{root}/{query and '?'}{query}", 308)(scope, receive, send)
            return
        path = path.removeprefix(root) if path.startswith(f"{root}/") else path
        await self._app({**scope, "path": path, "root_path": ""}, receive, send_located)


def _outer(location: str, root: str) -> str:
    """Return a location of the application as an absolute path of the outer server."""
    parts = urlsplit(location)
    # One slash at the beginning: two would begin the name of a host.
    return f"{root}/{parts.path.lstrip('/')}" + (f"?{parts.query}" if parts.query else "")
