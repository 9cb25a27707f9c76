"""What the app's OpenAPI document says is what it answers: Schemathesis looks.

The cases come from the document, those that it allows and those that it does not. They are sent by
our own client, which has the event loop that the database was opened in.
"""

from collections import Counter
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backends import Backend
from hostile_client import Client, Request, calling

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg", "mysql-aiomysql")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_answers_are_as_documented(backend: Backend, mode: GenerationMode) -> None:
    """Each operation, by what it is said to take and by what it is not."""
    with calling(backend) as client:
        client.send(Request("POST", "/items", body={"code": "first"}))
        document = client.app.openapi()
        schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
        sent: Counter[str] = Counter()

        @settings(
            max_examples=120,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(schema.as_strategy(generation_mode=mode))
        def send(case: Case[Any]) -> None:
            sent[case.operation.label] += 1
            exchange(client, case)

        send()
        known = {
            f"{method.upper()} {path}" for path, its in document["paths"].items() for method in its
        }
        # Whatever is put into a path is a string, so that none is wrong.
        assert known - sent.keys() <= {"GET /items/by-code/{code}"}
        assert {200, 422} <= set(client.statuses)


def exchange(client: Client, case: Case[Any]) -> None:
    """Send the case as Schemathesis would, and let it look at the answer."""
    prepared = requests.Request(**case.as_transport_kwargs(base_url="http://a")).prepare()
    headers = {
        encoded(name).lower(): encoded(value)
        for name, value in prepared.headers.items()
        if name.lower() != "content-length"
    }
    method, url, body = prepared.method, prepared.url, prepared.body
    assert method is not None
    assert url is not None
    assert body is None or isinstance(body, str | bytes)
    answer = client.send_raw(method, url, body, headers)
    case.validate_response(answer, checks=CHECKS)


def encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
