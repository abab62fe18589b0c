"""A real `udq serve`, a real Chromium, and what somebody does at the page: for tests, pictures and measurements."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
QUIET += "--no-first-run"


def installed():
    """Path of the system's Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium():
    """Playwright's browser, until the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=installed(), args=QUIET.split())
        yield browser
        browser.close()


@contextmanager
def serving(collection):
    """`udq serve` in a process of its own, until the end of the block: the address that it prints."""
    command = [sys.executable, "-c", "from udq.cli.main import main; main()", "serve", str(collection), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split()[-1].rstrip("/")
        finally:
            server.terminate()
            server.wait(20)


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
