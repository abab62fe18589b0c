"""``udq search``: parses, calls, prints."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Json
from udq.errors import InputError

if TYPE_CHECKING:
    pass
from udq.cli.options import Rerank, parse_box, parse_example, parse_stages


def search(
    collection: CollectionPath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query photo, in the collection or not.")],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2",
            help="The object in it, in pixels: left, top, right, bottom. Default: all of it.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO:X1,Y1,X2,Y2",
            help="One more box of the same object, in this photo or another; may be repeated.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Photos wanted.")] = 20,
    rerank: Rerank = "",
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.jpg", help="Write a picture of the query and the matches.")
    ] = None,
    lines: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.jpg", help="With --rerank verify: draw lines between the points of query and match that agree."
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the photos that show the object in a box, best first, with its position."""
    stages = parse_stages(rerank)
    if lines is not None and "verify" not in stages:
        raise InputError("--lines: expected --rerank verify, which finds the points; add it or leave --lines out")
    with _uncollected():
        from udq.collection import Collection
        from udq.types import Example

        if picture is not None or lines is not None:
            from udq.reports import sheet as pictures

            for file in filter(None, (picture, lines)):
                pictures.file_format(file)
        # torch answers a single query before OpenVINO has compiled the network.
        opened = Collection.open(collection, device=device, network="torch")
        examples = [Example(image, None if box is None else parse_box(box)), *map(parse_example, also or ())]
        result = opened.search_examples(examples, k=k, rerank=stages)
    if picture is not None:
        from udq.reports import results

        pictures.save(results.search_sheet(opened, result), picture)
    drawn = None
    if lines is not None:
        from udq.reports import match_lines

        held = {image.id: image.path for image in opened.images}
        drawn = match_lines.sheet(result, [held[match.id] for match in result.matches if match.id is not None])
        if drawn is not None:
            pictures.save(drawn, lines)
    if as_json:
        printing.print_json(result.to_json())
        return
    points = f"{'points':>6}  " if "verify" in result.rerank else ""
    print(f"{'rank':>4}  {'score':>7}  {'sure':>5}  {points}{'x1,y1,x2,y2':<21}  photo")
    for match in result.matches:
        place = ",".join(f"{side:.0f}" for side in match.box)
        seen = f"{match.verified.inliers if match.verified else '-':>6}  " if points else ""
        sure = math.floor(100 * (match.confidence or 0))  # 100 % is the query's own photo
        printing.say(f"{match.rank:>4}  {match.score:>7.4f}  {sure:>3} %  {seen}{place:<21}  {match.image}")
    if not result.found:
        print(f"nothing found for sure: no match is {result.threshold:.0%} sure, and the object may not be there")
    print(f"{len(opened):,} photos ranked in {result.elapsed_ms['total']:.0f} ms "
          f"(encoding the query {result.elapsed_ms['encode']:.0f}, scan {result.elapsed_ms['scan']:.1f}"
          + (f", {', '.join(result.rerank)} {result.elapsed_ms['rerank']:.0f})" if result.rerank else ")"))  # fmt: skip
    if picture is not None:
        printing.say(f"picture: {picture}")
    if lines is not None:
        printing.say("lines: none drawn, as no match was verified" if drawn is None else f"lines: {lines}")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: imports make objects by the million and none of it, and looking takes a while."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
