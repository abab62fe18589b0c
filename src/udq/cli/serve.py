"""``udq serve``: a collection as a page and an API. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Threads
from udq.common.text import counted
from udq.errors import InputError

Host = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Address to listen on, or a name, on all of its addresses: localhost, ::1."),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for a free one.")]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar="UDQ_TOKEN",
        help="Secret that every request must carry; required to listen beyond this machine.",
    ),
]
AllowWrite = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Allow adding photos, which are stored in FOLDER, and removing them."),
]
Origin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Address under which browsers reach a proxy in front of this server, such as https://photos.example.org; "
        "repeat it for several (docs/serve.md).",
    ),
]
RootPath = Annotated[
    str, typer.Option(metavar="PATH", help="Path below which the proxy serves the page and the API, such as /udq.")
]
OpenBrowser = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
LookedAt = Annotated[
    float | None,
    typer.Option(
        metavar="PART",
        min=0.001,
        max=1,
        help="Share of the codes that a search scans, nearest first; for tens of millions of regions.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Hold and search the codes in actors of a Ray cluster: local, auto or HOST:PORT (docs/scaling.md).",
    ),
]
Shards = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="With --ray: parts of the codes. Default: one per processor.")
]
Replicas = Annotated[
    int, typer.Option(metavar="N", min=1, help="With --ray: actors that hold each part; with 2, one may die.")
]


def serve(
    collection: CollectionPath,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    allow_write: AllowWrite = None,
    origin: Origin = None,
    root_path: RootPath = "",
    open_browser: OpenBrowser = False,
    looked_at: LookedAt = None,
    ray: Ray = None,
    shards: Shards = None,
    replicas: Replicas = 1,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve a collection as a page and an API, by default to this machine only, until Ctrl-C."""
    from udq.collection import Collection
    from udq.web import server

    if ray is not None and allow_write is not None:
        raise InputError(
            "--allow-write: a collection held by a Ray cluster cannot be changed; leave out --ray or --allow-write"
        )
    if ray is None and (shards is not None or replicas != 1):
        raise InputError("--shards and --replicas: expected --ray ADDRESS with them; add it or leave them out")
    opened = Collection.open(
        collection,
        device=device,
        threads=threads,
        looked_at=looked_at,
        ray=ray,
        shards=shards,
        replicas=replicas,
    )

    def ready(address: str) -> None:
        printing.say(f"{collection}: {counted(len(opened), 'photo')} at {address}")
        if host in ("0.0.0.0", "::", "[::]"):
            printing.say("and at every other address of this machine")
        for url in origin or ():
            printing.say(f"behind a proxy: {url.rstrip('/')}{root_path.rstrip('/')}/")
        if token is not None:
            printing.say(f"first visit: {address}?token=TOKEN, with your token")
        printing.say("press Ctrl-C to stop")

    try:
        server.serve(
            opened,
            host=host,
            port=port,
            token=token,
            write_to=allow_write,
            open_browser=open_browser,
            say=ready,
            origins=origin or (),
            root_path=root_path,
        )
    except KeyboardInterrupt:
        printing.say("stopped")
