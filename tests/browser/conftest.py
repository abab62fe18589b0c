"""A real browser before a real `udq serve`; skipped, with the reason, where there is no browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import browsing
import pytest

from udq import Collection, IndexConfig


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs playwright and Chromium; skipped where they are absent")


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, started once."""
    pytest.importorskip("playwright", reason="no playwright: pip install -r tests/browser/requirements.txt")
    if browsing.installed() is None:
        pytest.skip("no Chromium on this machine, such as Debian's package chromium")
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def demo_folder(demo):
    return Path(demo["written"]["page"]).parent


@pytest.fixture(scope="session")
def demo_server(chromium, demo):
    """Address of a server of the demonstration's collection."""
    with browsing.serving(demo["written"]["collection"]) as address:
        yield address


@pytest.fixture(scope="session")
def instre_server(chromium, shared_data, tmp_path_factory):
    """Address of a server of 1,500 real photos."""
    path = tmp_path_factory.mktemp("instre") / "instre.udq"
    config = IndexConfig().replace({"training": {"enabled": False}})
    Collection.build(shared_data / "instre_dev" / "images", path, config=config, device="cpu")
    with browsing.serving(path) as address:
        yield address


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
        here = browsing.Visit(page, address, [], [])
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
