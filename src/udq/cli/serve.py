"""``udq serve``: a collection as a page and an API. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device
from udq.common.text import counted
from udq.errors import InputError


def serve(
    collection: CollectionPath,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 for a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            envvar="UDQ_TOKEN",
            help="A secret that everybody who asks must know; needed beyond this machine.",
        ),
    ] = None,
    allow_write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Let photos be added, which are put into FOLDER, and removed."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    looked_at: Annotated[
        float | None,
        typer.Option(
            metavar="PART",
            min=0.001,
            max=1,
            help="Part of the codes that a search looks at, nearest first; for tens of millions of regions.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Have actors of a Ray cluster hold and search the codes: local, auto or HOST:PORT (docs/scaling.md).",
        ),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --ray: parts of the codes. Default: one a processor.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --ray: actors that hold each part; with 2, one may die.")
    ] = 1,
    device: Device = "auto",
) -> None:
    """Serve a collection as a page and an API, on this machine unless told otherwise, until Ctrl-C."""
    from udq.collection import Collection
    from udq.web import server

    if ray is not None and allow_write is not None:
        raise InputError("--allow-write: what a Ray cluster holds cannot be changed; leave out one of the two")
    if ray is None and (shards is not None or replicas != 1):
        raise InputError("--shards and --replicas: expected --ray ADDRESS with them; add it or leave them out")
    opened = Collection.open(collection, device=device, looked_at=looked_at, ray=ray, shards=shards, replicas=replicas)

    def ready(address: str) -> None:
        printing.say(f"{collection}: {counted(len(opened), 'photo')} at {address}")
        if token is not None:
            printing.say(f"first visit: {address}?token=TOKEN, with your own token")
        printing.say("Ctrl-C ends it")

    try:
        server.serve(
            opened,
            host=host,
            port=port,
            token=token,
            write_to=allow_write,
            open_browser=open_browser,
            say=ready,
        )
    except KeyboardInterrupt:
        printing.say("ended")
