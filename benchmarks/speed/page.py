"""How long somebody at the page waits, in Chromium before a `udq serve` on the same machine.

    python benchmarks/speed/page.py PHOTOS GROUND_TRUTH [--searches 10] [--photos 100000] [--json OUT]

"search": from the release of the mouse to the frame after the first result's picture is there, for boxes that were
never searched for before, with a warm server; beside it what the server says that it took itself. "list": a list of so
many photos, which are names for a few files: from opening the page to the first pictures, the frames while it is
scrolled, from a jump to its end until the last photo is there, and how many of the photos are elements of the page at
most.

Needs what `make test-browser` installs.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from udq import Collection, IndexConfig
from udq.common.provenance import provenance

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "browser"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "robustness"))
from browsing import Visit, chromium, serving
from robustness_load import replicate

FEW = 40
"""Files that the long list is made of."""
UNTRAINED = IndexConfig().replace({"training": {"enabled": False}})
FIRST_RESULT = """() => new Promise((done) => addEventListener("pointerup", () => {
    const released = performance.now();
    const before = document.querySelector("#results .card");
    const look = () => {
        const card = document.querySelector("#results .card");
        if (card && card !== before && card.querySelector("img").complete && card.querySelector("img").naturalWidth)
            requestAnimationFrame(() => done(performance.now() - released));
        else requestAnimationFrame(look);
    };
    look();
}, { capture: true, once: true }))"""
FRAMES = """(pixels) => new Promise((done) => {
    const [grid, frames, times] = [document.querySelector("#grid"), 240, []];
    let [last, most] = [performance.now(), 0];
    const step = (now) => {
        times.push(now - last);
        last = now;
        most = Math.max(most, document.querySelectorAll(".cell").length);
        grid.scrollTop += pixels;
        if (times.length < frames) requestAnimationFrame(step);
        else done({ times: times.slice(1), most });
    };
    requestAnimationFrame(step);
})"""


def searches(photos: Path, truth: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Draw the boxes of a benchmark, the first ones to warm up."""
    Collection.build(photos, scratch / "photos.udq", config=UNTRAINED)
    with truth.open(encoding="utf-8") as file:
        queries = list(csv.DictReader(file))
    # Of different photos, from all over the list: queries of one object follow each other.
    queries = queries[:: max(1, len(queries) // (count + 3))][: count + 3]
    waited, served, encoded = [], [], []
    with serving(scratch / "photos.udq") as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        here = Visit(page, address, [], [])
        for query in queries:
            here.choose(query["query_image"])
            page.evaluate(f"globalThis.first = ({FIRST_RESULT})(), null")
            with here.searching() as answer:
                here.drag(*[(float(query[x]), float(query[y])) for x, y in (("x1", "y1"), ("x2", "y2"))])
            waited.append(page.evaluate("first"))
            elapsed = answer.value.json()["elapsed_ms"]
            served.append(elapsed["total"])
            encoded.append(elapsed["encode"])
            page.click("#new-search")
    waited, served, encoded = waited[3:], served[3:], encoded[3:]
    return {
        "photos": len(list(photos.iterdir())),
        "searches": len(waited),
        "first_result_ms": summary(waited),
        "server_ms": summary(served),
        "of_that_encoding_ms": summary(encoded),
        "besides_server_ms": summary([all_of_it - part for all_of_it, part in zip(waited, served, strict=True)]),
    }


def long_list(photos: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Scroll through a list of ``count`` photos."""
    folder = scratch / "list"
    folder.mkdir()
    few = sorted(path for path in photos.iterdir() if path.is_file())[:FEW]
    for path in few:
        (folder / path.name).write_bytes(path.read_bytes())
    collection = Collection.build(folder, scratch / "list.udq", config=UNTRAINED)
    replicate(scratch / "list.udq", count, named="{number:06d}-{name}")
    for number in range(len(few), count):
        original = collection.names[(number - len(few)) % len(few)]
        (folder / f"{number:06d}-{original}").symlink_to(original)
    with serving(scratch / "list.udq") as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        here = Visit(page, address, [], [])
        page.goto(address, wait_until="commit")
        here.until("[...document.querySelectorAll('.cell img')].some((picture) => picture.naturalWidth > 0)")
        first = page.evaluate("performance.now()")
        here.until(f"document.querySelector('#count').textContent.startsWith('{count:,}')")
        slow = page.evaluate(FRAMES, 24)
        fast = page.evaluate(FRAMES, 3000)
        started = page.evaluate("performance.now()")
        page.evaluate("document.querySelector('#grid').scrollTop = 1e9")
        here.until(f"document.querySelector('#photo-{count - 1}') !== null")
        ended = page.evaluate("performance.now()")
        return {
            "photos": count,
            "first_pictures_ms": round(first),
            "frames_ms": {"24 px a frame": frames(slow["times"]), "3,000 px a frame": frames(fast["times"])},
            "to_the_end_ms": round(ended - started),
            "most_elements": max(slow["most"], fast["most"]),
        }


def summary(values: list[float]) -> dict[str, Any]:
    """Median and range, and all of them."""
    return {
        "median": round(statistics.median(values), 1),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
        "all": [round(value, 1) for value in values],
    }


def frames(times: list[float]) -> dict[str, float]:
    """What a frame took: 16.7 ms is the screen's own pace."""
    ordered = sorted(times)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * len(ordered))], 1),
        "most": round(ordered[-1], 1),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("photos", type=Path, help="a folder of photos")
    arguments.add_argument("ground_truth", type=Path, help="boxes on them, of the dataset `boxes`")
    arguments.add_argument("--searches", type=int, default=10)
    arguments.add_argument("--photos", dest="listed", type=int, default=100_000, help="of the long list")
    arguments.add_argument("--json", type=Path)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            "provenance": provenance(seed=0),
            "search": searches(asked.photos, asked.ground_truth, Path(scratch), asked.searches),
            "list": long_list(asked.photos, Path(scratch), asked.listed),
        }
    print(json.dumps({name: found[name] for name in ("search", "list")}, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
