"""Requests generated from the OpenAPI description, valid and invalid: none causes a server error.

Marked ``web_fuzz``, because it takes half a minute: make test-web-fuzz, which .ci/run calls.
"""

from __future__ import annotations

import contextlib

import httpx
import hypothesis
import pytest
import schemathesis
from clients import serving
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from udq import Collection
from udq.web.service import Service

pytestmark = pytest.mark.web_fuzz


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = {
    "max_examples": 25,
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}


@pytest.fixture
def address(place):
    opened = Collection.open(place / "x.udq", device="cpu")
    with serving(Service.start(opened, write_to=place / "photos")) as client:
        yield str(client.base_url).rstrip("/")


def statuses(operation, mode):
    """Call an operation with generated data; return the statuses of the responses."""
    found = set()

    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(**SETTINGS)
    def call(case):
        response = case.call(timeout=30)
        case.validate_response(response, checks=CHECKS)
        found.add(response.status_code)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # an operation without parameters has no invalid data
        call()
    return found


def test_no_request_causes_a_server_error(address):
    """Every operation, with data that are valid by its description and data that are not."""
    api = schemathesis.openapi.from_dict(httpx.get(f"{address}/api/v1/openapi.json").json())
    api.config.update(base_url=address)
    operations = [result.ok() for result in api.get_all_operations()]
    valid = {each.label: statuses(each, schemathesis.GenerationMode.POSITIVE) for each in operations}
    invalid = {each.label: statuses(each, schemathesis.GenerationMode.NEGATIVE) for each in operations}

    assert len(valid) == 16
    assert all(status < 500 for found in (*valid.values(), *invalid.values()) for status in found)
    for label in ("GET /api/v1/photos", "GET /api/v1/collection", "POST /api/v1/uploads", "GET /metrics"):
        assert valid[label] & {200, 201, 422}
    assert 422 in invalid["POST /api/v1/search"]
