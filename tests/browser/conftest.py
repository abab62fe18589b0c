"""A real browser before a real `udq serve`; skipped, with the reason, where there is no browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from udq import Collection, IndexConfig

QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
QUIET += "--no-first-run"


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs playwright and Chromium; skipped where they are absent")


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, started once."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install -r tests/browser/requirements.txt"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine, such as Debian's package chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET.split())
        yield browser
        browser.close()


@contextmanager
def serving(collection):
    """`udq serve` in a process of its own, until the end of the block: the address that it prints."""
    command = [sys.executable, "-c", "from udq.cli import main; main()", "serve", str(collection), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split()[-1].rstrip("/")
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="session")
def demo_folder(demo):
    return Path(demo["written"]["page"]).parent


@pytest.fixture(scope="session")
def demo_server(chromium, demo):
    """Address of a server of the demonstration's collection."""
    with serving(demo["written"]["collection"]) as address:
        yield address


@pytest.fixture(scope="session")
def instre_server(chromium, shared_data, tmp_path_factory):
    """Address of a server of 1,500 real photos."""
    path = tmp_path_factory.mktemp("instre") / "instre.udq"
    config = IndexConfig().replace({"training": {"enabled": False}})
    Collection.build(shared_data / "instre_dev" / "images", path, config=config, device="cpu")
    with serving(path) as address:
        yield address


@dataclass
class Visit:
    """Somebody at the page.

    Attributes:
        page: Playwright's.
        address: of the server.
        errors: what the browser's console said was wrong; looked at when the visit ends.
        strangers: requests that left the server's origin.
    """

    page: Any
    address: str
    errors: list[str]
    strangers: list[str]

    def choose(self, name):
        """Choose a photo of the collection by its name."""
        self.page.fill("#filter", name)
        self.page.locator(f'.cell[aria-label="{name}"]').click()
        self.until("document.querySelector('#stage img').naturalWidth > 0")

    def until(self, expression):
        """Wait until an expression holds; Playwright's own waiting needs eval, which the page's policy forbids."""
        deadline = time.monotonic() + 15
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"this never came about: {expression}"
            self.page.wait_for_timeout(20)

    def at(self, x, y):
        """Where a pixel of the photo is on the screen."""
        return self.page.evaluate(
            """([x, y]) => {
                const area = document.querySelector("#stage").getBoundingClientRect();
                const label = document.querySelector("#stage").ariaLabel;
                const [, width, height] = label.match(/(\\d+) by (\\d+) pixels/);
                return [area.left + x * area.width / width, area.top + y * area.height / height];
            }""",
            [x, y],
        )

    def drag(self, start, end):
        """Drag the mouse between two pixels of the photo."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        self.page.mouse.move(*self.at(*end))
        self.page.mouse.up()

    def searching(self):
        """Wait in a ``with`` block for a search to be asked for: its ``value`` is the server's answer."""
        return self.page.expect_response(lambda response: response.url.endswith("/api/v1/search"))

    def draw(self, box):
        """Draw a box and wait for its results."""
        with self.searching() as answer:
            self.drag(box[:2], box[2:])
        assert answer.value.status == 200, answer.value.text()
        self.settled()
        return answer.value.request.post_data_json

    def settled(self):
        """Wait until results are shown."""
        self.page.wait_for_selector("#results:not([aria-busy]) .card")

    def results(self):
        """Name and box of every result that is shown, best first."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll(".card:not([hidden])")].map((card) => {
                const side = (name) => Number(card.querySelector(".outline").getAttribute(name));
                const [x, y] = [side("x"), side("y")];
                return [card.querySelector(".name").textContent, [x, y, x + side("width"), y + side("height")]];
            })"""
        )


@pytest.fixture
def visit(chromium):
    """Open the page: ``visit(address, width=..., scheme=..., touch=...)``; nothing may go wrong that is not expected.

    A test that makes something go wrong on purpose takes it from ``errors`` of its visit.
    """
    visits = []

    def begin(address, *, path="/", width=1280, height=800, scheme="light", touch=False):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=touch,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        here = Visit(page, address, [], [])
        page.on("console", lambda said: here.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: here.errors.append(str(error)))
        page.on("request", lambda asked: here.strangers.append(asked.url) if is_strange(asked.url, address) else None)
        visits.append((here, context))
        page.goto(address + path)
        return here

    yield begin
    for here, context in visits:
        context.close()
        assert here.errors == []
        assert here.strangers == []


def is_strange(url, address):
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(address).netloc
