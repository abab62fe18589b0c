"""The web server as a deployment of Ray Serve, which restarts it after a crash.

    serve run udq.web.ray_serve:page collection=/data/photos.udq shards=8 replicas=2

The deployment has one replica, because uploads are stored on the replica that received them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from udq.collection import Collection
from udq.distributed import cluster
from udq.errors import InputError
from udq.web import server
from udq.web.edge.addresses import origin_of

_ARGUMENTS = ("collection", "shards", "replicas", "token", "origin")


def page(arguments: dict[str, str]) -> Any:
    """Return the application (``ray.serve.Application``).

    Args:
        arguments: ``collection``, a path that exists on all machines; ``shards`` and ``replicas`` as in
            ``Collection.open``; ``token``, which clients must send: omit it only if Ray Serve's proxy listens on
            loopback, which this function cannot check; ``origin``, as ``udq serve --origin``, several separated by
            commas.

    Raises:
        InputError: an unknown or invalid argument, or no collection.
    """
    unknown = sorted(set(arguments) - set(_ARGUMENTS))
    if unknown or "collection" not in arguments:
        raise InputError(f"expected collection=PATH and some of {', '.join(_ARGUMENTS[1:])}, found {list(arguments)}")
    cluster.ray()
    from ray import serve

    path = Path(arguments["collection"]).resolve()
    Collection.open(path)  # fails here rather than on the replica
    sizes = {name: arguments[name] for name in ("shards", "replicas") if name in arguments}
    if not all(value.isdecimal() for value in sizes.values()):
        raise InputError(f"shards and replicas: expected whole numbers, found {sizes}")
    token = arguments.get("token")
    if token is not None:
        server.check_token(token)
    origins = tuple(origin_of(url) for url in arguments.get("origin", "").split(",") if url)

    def build() -> Any:
        from udq.web import app
        from udq.web.guard import Access
        from udq.web.service import Service

        shards = int(sizes["shards"]) if "shards" in sizes else None
        opened = Collection.open(path, ray="auto", shards=shards, replicas=int(sizes.get("replicas", 1)))
        host = "127.0.0.1" if token is None else "0.0.0.0"
        return app.create(Service.start(opened), Access(host, token, "udq-ray", origins))

    deployed: Any = serve.deployment(name="udq", num_replicas=1, max_ongoing_requests=1000)
    return deployed(serve.ingress(build)()).bind()
