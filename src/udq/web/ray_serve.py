"""The page and the API as a deployment of Ray Serve, which starts it anew where it dies.

    serve run udq.web.ray_serve:page collection=/data/photos.udq shards=8 replicas=2

There is one of it: photos that visitors bring are kept where they came in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from udq.collection import Collection
from udq.distributed import cluster
from udq.errors import InputError
from udq.web import server

_ARGUMENTS = ("collection", "shards", "replicas", "token")


def page(arguments: dict[str, str]) -> Any:
    """Return the application (``ray.serve.Application``).

    Args:
        arguments: ``collection``, a path that all machines have; ``shards`` and ``replicas`` as in
            ``Collection.open``; ``token``, which everybody who asks must know: leave it out only
            where Ray Serve's proxy listens on loopback alone, which this cannot see to.

    Raises:
        InputError: another argument, or none that is a collection.
    """
    unknown = sorted(set(arguments) - set(_ARGUMENTS))
    if unknown or "collection" not in arguments:
        raise InputError(f"expected collection=PATH and some of {', '.join(_ARGUMENTS[1:])}, found {list(arguments)}")
    cluster.ray()
    from ray import serve

    path = Path(arguments["collection"]).resolve()
    Collection.open(path)  # refused here rather than on a replica
    wanted = {name: arguments[name] for name in ("shards", "replicas") if name in arguments}
    if not all(value.isdecimal() for value in wanted.values()):
        raise InputError(f"shards and replicas: expected whole numbers, found {wanted}")
    token = arguments.get("token")
    if token is not None:
        server.check_token(token)

    def build() -> Any:
        from udq.web import app
        from udq.web.guard import Access
        from udq.web.service import Service

        shards = int(wanted["shards"]) if "shards" in wanted else None
        opened = Collection.open(path, ray="auto", shards=shards, replicas=int(wanted.get("replicas", 1)))
        host = "127.0.0.1" if token is None else "0.0.0.0"
        return app.create(Service.start(opened), Access(host, token, "udq-ray"))

    deployed: Any = serve.deployment(name="udq", num_replicas=1, max_ongoing_requests=1000)
    return deployed(serve.ingress(build)()).bind()
