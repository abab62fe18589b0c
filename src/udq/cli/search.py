"""``udq search``: parses, calls, prints."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Json, Rerank, Threads, parse_box, parse_example, parse_stages
from udq.cli.progress_bar import progress
from udq.common.files import check_output, existing
from udq.errors import InputError

QueryPhoto = Annotated[Path, typer.Argument(metavar="IMAGE", help="The query photo, in the collection or not.")]
QueryBox = Annotated[
    str | None,
    typer.Option(
        metavar="X1,Y1,X2,Y2",
        help="The object in it, in pixels: left, top, right, bottom (no width and height). Default: the whole photo.",
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PHOTO:X1,Y1,X2,Y2",
        help="One more box of the same object, in this photo or another; may be repeated.",
    ),
]
Count = Annotated[int, typer.Option("-k", metavar="K", help="Number of matches; copies of one photo count once.")]
Picture = Annotated[Path | None, typer.Option(metavar="OUT.jpg", help="Write a picture of the query and the matches.")]
Lines = Annotated[
    Path | None,
    typer.Option(metavar="OUT.jpg", help="With verify: draw lines between the matching points of query and match."),
]

Turned = Annotated[
    bool,
    typer.Option("--turned", help="Find mirror images of the object, too; it may be turned by any angle in any case."),
]


def search(
    collection: CollectionPath,
    image: QueryPhoto,
    box: QueryBox = None,
    also: Also = None,
    k: Count = 20,
    rerank: Rerank = None,
    turned: Turned = False,
    picture: Picture = None,
    lines: Lines = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the photos that show the object in a box, best first, with its position."""
    stages = _stages(parse_stages(rerank), turned=turned)
    if lines is not None and stages is not None and not any(name.startswith("verify") for name in stages):
        raise InputError("--lines: expected --rerank verify, which finds the points; add it or leave --lines out")
    with _no_garbage_collection():
        from udq.collection import Collection
        from udq.types import Example

        if picture is not None or lines is not None:
            from udq.reports import sheet

            for file in filter(None, (picture, lines)):
                sheet.file_format(file)
        # torch answers a single query before OpenVINO has compiled the network.
        opened = Collection.open(collection, device=device, network="torch", threads=threads)
        examples = [Example(existing(image), None if box is None else parse_box(box)), *map(parse_example, also or ())]
        for file in filter(None, (picture, lines)):
            check_output(file, (*(example.photo for example in examples), *(image.path for image in opened.images)))
        result = opened.search_examples(examples, k=k, rerank=stages, progress=progress)
    if picture is not None:
        from udq.reports import results

        sheet.save(results.search_sheet(opened, result), picture)
    drawn = None
    if lines is not None:
        from udq.reports import match_lines

        files = {each.id: each.file for each in opened.images}
        found = [files[match.id] for match in result.matches if match.id is not None]
        drawn = match_lines.sheet(result, found, opened.decoder)
        if drawn is not None:
            sheet.save(drawn, lines)
    if as_json:
        printing.print_json(result.to_json())
        return
    printing.print_matches(result, photos=len(opened))
    if picture is not None:
        printing.say(f"picture: {picture}")
    if lines is not None:
        printing.say("lines: none drawn, because no match was verified" if drawn is None else f"lines: {lines}")


def _stages(named: list[str] | None, *, turned: bool) -> list[str] | None:
    """Return the stages to apply, with mirror images if they are asked for."""
    if not turned:
        return named
    from udq.search import rerank

    if named is not None and "verify" not in named:
        raise InputError("--turned: expected verify among the stages of --rerank; add it or leave --rerank out")
    return ["verify-mirrored" if name == "verify" else name for name in (named or rerank.DEFAULT)]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: imports make millions of objects and no garbage, and scanning them is slow."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
