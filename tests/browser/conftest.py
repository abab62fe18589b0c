"""Fixtures: a real browser and real servers; tests are skipped, with the reason, if there is no browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import browsing
import pytest

from udq import Collection, IndexConfig, datasets


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs playwright and Chromium; skipped if they are missing")


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, started once."""
    pytest.importorskip(
        "playwright", reason="playwright is not installed: pip install -r tests/browser/requirements.txt"
    )
    if browsing.installed() is None:
        pytest.skip("Chromium is not installed, such as Debian's package chromium")
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def demo_folder(demo):
    return Path(demo["written"]["page"]).parent


@pytest.fixture(scope="session")
def demo_server(chromium, demo):
    """Address of a server of the demo collection."""
    with browsing.serving(demo["written"]["collection"]) as address:
        yield address


@pytest.fixture(scope="session")
def instre_server(chromium, shared_data, tmp_path_factory):
    """Address of a server of some 600 real photos: all that show an object, and every fifth of the others."""
    path = tmp_path_factory.mktemp("instre") / "instre.udq"
    config = IndexConfig().replace({"training": {"enabled": False}})
    truth = datasets.load("boxes", shared_data / "instre_dev" / "ground_truth.csv")
    named = {name for query in truth.queries for name in (query.image, *query.positives)}
    photos = sorted((shared_data / "instre_dev" / "images").iterdir())
    some = {*photos[::5], *(photo for photo in photos if photo.name in named)}
    Collection.build(sorted(some), path, config=config, device="cpu")
    with browsing.serving(path) as address:
        yield address


@pytest.fixture
def visit(chromium):
    """Open the page: ``visit(address, width=..., scheme=..., touch=...)``; fails on any error in the console.

    A test that causes an error on purpose removes it from ``errors`` of its visit.
    """
    visits = []

    def open_page(address, *, path="/", width=1280, height=800, scheme="light", touch=False):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=touch,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        here = browsing.Visit(page, address, [], [])
        page.on("console", lambda message: note_error(here, message))
        page.on("pageerror", lambda error: here.errors.append(str(error)))
        page.on("request", lambda request: note_foreign(here, request.url))
        visits.append((here, context))
        page.goto(address + path)
        return here

    yield open_page
    for here, context in visits:
        context.close()
        assert here.errors == []
        assert here.foreign_requests == []


def note_error(here, message):
    if message.type in ("error", "warning"):
        here.errors.append(message.text)


def note_foreign(here, url):
    parts = urlsplit(url)
    if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(here.address).netloc:
        here.foreign_requests.append(url)
