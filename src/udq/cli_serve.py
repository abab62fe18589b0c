"""``udq serve``: a collection as a page and an API. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from udq import printing
from udq.cli_update import CollectionPath, Device
from udq.words import counted


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
    inverted: Annotated[
        bool,
        typer.Option("--inverted", help="Sort codes by cells: for tens of millions of regions (docs/performance.md)."),
    ] = False,
    device: Device = "auto",
) -> None:
    """Serve a collection as a page and an API, on this machine unless told otherwise, until Ctrl-C."""
    from udq.collection import Collection
    from udq.web import server

    opened = Collection.open(collection, device=device, inverted=inverted)

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
