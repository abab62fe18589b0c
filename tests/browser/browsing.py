"""A real `udq serve`, a real Chromium, and actions on the page: for tests, screenshots and benchmarks."""

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
# Names of servers behind a proxy on this machine.
NAMES = "--host-resolver-rules=MAP *.example.org 127.0.0.1"


def installed():
    """Path of the system's Chromium; None if it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium():
    """Yield a running browser of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=installed(), args=[*QUIET.split(), NAMES])
        yield browser
        browser.close()


@contextmanager
def serving(collection, *options):
    """Run `udq serve` in a separate process; yield the address that it prints."""
    command = [sys.executable, "-c", "from udq.cli.main import main; main()", "serve", str(collection), "--port", "0"]
    command += options
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split()[-1].rstrip("/")
        finally:
            server.terminate()
            server.wait(20)


@dataclass
class Visit:
    """An open page.

    Attributes:
        page: Playwright's page.
        address: of the server.
        errors: errors and warnings of the browser's console; expected to be empty when the test ends.
        foreign_requests: URLs of requests to other origins; expected to be empty, too.
    """

    page: Any
    address: str
    errors: list[str]
    foreign_requests: list[str]

    def choose(self, name):
        """Choose a photo of the collection by its name, and wait until it is shown."""
        self.page.fill("#filter", name)
        self.page.locator(f'.cell[aria-label="{name}"]').click()
        self.until("document.querySelector('#stage img').naturalWidth > 0")

    def until(self, expression):
        """Wait until an expression is true; Playwright's own waiting needs eval, which the page's policy forbids."""
        deadline = time.monotonic() + 15
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"timed out waiting for: {expression}"
            self.page.wait_for_timeout(20)

    def at(self, x, y):
        """Coordinates of a pixel of the photo in the window."""
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
        """Expect a search request within a ``with`` block, whose ``value`` is the response."""
        return self.page.expect_response(lambda response: response.url.endswith("/api/v1/search"))

    def draw(self, box):
        """Draw a box and wait for its results; return the JSON of the search request."""
        with self.searching() as response:
            self.drag(box[:2], box[2:])
        assert response.value.status == 200, response.value.text()
        self.settled()
        return response.value.request.post_data_json

    def settled(self):
        """Wait until results are shown."""
        self.page.wait_for_selector("#results:not([aria-busy]) .card")

    def results(self):
        """Name and box of every visible result, best first."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll(".card:not([hidden])")].map((card) => {
                const side = (name) => Number(card.querySelector(".outline").getAttribute(name));
                const [x, y] = [side("x"), side("y")];
                return [card.querySelector(".name").textContent, [x, y, x + side("width"), y + side("height")]];
            })"""
        )
