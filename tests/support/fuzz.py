"""Requests made from the OpenAPI document by schemathesis, and what no response to them may be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.web import events

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MOST_EVALUATIONS = 300  # of a search: what it answers is the same, sooner


def fuzz(
    client: TestClient, cases: int, known: Mapping[str, str], keys: Sequence[str] = ("",), number: int = 0
) -> Counter[tuple[str, int]]:
    """Send about so many requests, over all operations. Raises what schemathesis raises for a wrong response.

    known: names that exist, by parameter and field; every second request has them instead of random ones.
    keys: sent in turns. number: the seed.
    """
    document = client.get("/openapi.json").json()
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    counts: Counter[tuple[str, int]] = Counter()
    random = Random(number)
    events.POLL_SECONDS, events.MOST_SECONDS = 0.01, 0.02  # a stream about a job that nobody does has no end

    for operation in operations:

        @seed(number)
        @settings(
            max_examples=max(1, cases // len(operations)),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            if random.random() < 0.5:
                _name_what_exists(case, known)
            sent = case.as_transport_kwargs(base_url=str(client.base_url))
            key = random.choice(keys)
            headers = {**dict(sent.pop("headers", None) or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
            client.cookies = sent.pop("cookies", None) or {}
            response = client.request(**sent, headers=headers)
            counts[f"{case.operation.method.upper()} {case.operation.path}", response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        send()
    return counts


def _name_what_exists(case: Any, known: Mapping[str, str]) -> None:
    for values in (case.path_parameters, case.query, case.body):
        if not isinstance(values, dict):
            continue
        for name in known.keys() & values.keys():
            values[name] = known[name]
    if isinstance(case.body, dict) and case.operation.path == "/v1/searches":
        case.body["evaluations"] = MOST_EVALUATIONS
        case.body.pop("budget", None)
