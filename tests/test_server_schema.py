"""The server by its own OpenAPI document: whatever is sent, it is no fault of the server's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from serving import ASKED, Serving, serving, setup

from eftlocal.request_fields import FIELDS

EXAMPLES = int(os.environ.get("EFTLOCAL_EXAMPLES", "15"))  # of each operation
DEEPER = FIELDS.keys() - {"model", "messages", "prompt", "recipe", "persona", "response_format"}


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving({"demo": setup()}) as served:
        yield served


PATIENT = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_fault_of_the_servers(server: Serving) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 8
    seen: Counter[int] = Counter()
    for operation in operations:

        @PATIENT
        @given(case=operation.as_strategy(), whole=strategies.booleans())
        def try_it(case: Any, whole: bool) -> None:
            if whole and isinstance(case.body, dict):  # to come beyond the first fault
                case.body = {name: v for name, v in case.body.items() if name in DEEPER}
                case.body |= {"messages": ASKED} if "chat" in case.path else {"prompt": "Lima is"}
            reply = case.call(timeout=60)
            seen[reply.status_code] += 1
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)
            if reply.status_code >= 400:
                assert reply.json()["error"]["message"]

        try_it()
    print(seen)
    assert seen[200] and seen[400]
    assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200


def test_the_document_names_every_field(server: Serving) -> None:
    schemas = server.get("/openapi.json").json()["paths"]
    for path, own in (("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")):
        kinds = schemas[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {own, "beta", "temperature", "stream", "model"} <= kinds["properties"].keys()
