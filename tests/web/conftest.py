"""A server of the shared collection."""

from __future__ import annotations

import pytest
from clients import serving

from udq.web.service import Service


@pytest.fixture(scope="session")
def service(collection):
    """The service of the read-only collection."""
    return Service.start(collection)


@pytest.fixture(scope="session")
def client(service):
    """An HTTP client of its server."""
    with serving(service) as client:
        yield client
