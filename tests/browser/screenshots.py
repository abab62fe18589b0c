"""Take the screenshots in docs/screenshots: python tests/browser/screenshots.py udq-demo/demo.udq

They show the demo collection (`make demo`), are JPEGs of less than 250 kB, and are written atomically.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from browsing import Visit, chromium, serving
from PIL import Image

from udq.common.files import write_with

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
LARGEST = 250_000
COFFEE = (81, 20, 478, 386)


def main() -> None:
    """Serve the collection, and take every screenshot."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("collection", type=Path, help="demo collection, written by `udq demo`")
    collection = arguments.parse_args().collection
    with serving(collection) as address, chromium() as browser:
        for scheme in ("light", "dark"):
            here = opened(browser, address, scheme, 1440, 900)
            if scheme == "light":
                shot(here, "choose")
            searched(here)
            shot(here, f"results-{scheme}")
            here.page.locator(".card .open").nth(2).click()
            here.until("document.querySelector('#viewer-photo').naturalWidth > 0")
            shot(here, f"viewer-{scheme}")
        phone = opened(browser, address, "light", 360, 740)
        searched(phone)
        shot(phone, "phone-light")
        phone = opened(browser, address, "dark", 360, 740)
        searched(phone)
        phone.page.locator("#results").evaluate("list => scrollTo(0, list.offsetTop - 140)")
        shot(phone, "phone-dark")


def opened(browser, address: str, scheme: str, width: int, height: int) -> Visit:
    """Open the page in a new window."""
    page = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=1 if width > 500 else 2,
        color_scheme=scheme,
        reduced_motion="reduce",
    ).new_page()
    page.goto(address)
    page.wait_for_selector(".cell img[src]")
    page.wait_for_load_state("networkidle")
    return Visit(page, address, [], [])


def searched(here: Visit) -> None:
    """Search for the cup, and refine with three marks."""
    here.choose("coffee.jpg")
    here.draw(COFFEE)
    here.page.locator(".mark.right").nth(1).click()
    here.page.locator(".mark.right").nth(2).click()
    here.page.locator(".card:not(.is-right) .mark.wrong").last.click()
    with here.searching():
        here.page.click("#refine")
    here.settled()
    here.page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    here.page.mouse.move(0, 0)


def shot(here: Visit, name: str) -> None:
    """Save a screenshot once every image is loaded."""
    here.page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(here.page.screenshot())).convert("RGB")
    path = FOLDER / f"{name}.jpg"
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_with(path, lambda partial: picture.save(partial, "JPEG", quality=80, optimize=True))
    size = path.stat().st_size
    print(f"{path.name}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{path}: expected at most {LARGEST // 1000} kB, found {size // 1000}; show less of the page")


if __name__ == "__main__":
    main()
