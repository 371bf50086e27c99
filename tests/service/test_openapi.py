"""The OpenAPI document and its page."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from docs.write_openapi import openapi_text
from evolution.predictors.latency import LatencyModel
from service.context import Context
from service.keys.scopes import SCOPES
from service.storage.tables import Supernet
from tests.support.service import HOST, add_device
from tests.test_readme import REPOSITORY

WITHOUT_EXAMPLES = (
    "/v1/devices/{name}/",  # what a probe sends, which is too long to show
    "/v1/candidates/{candidate_id}/finetune",  # which needs registered images
)
VERBS = {"Add", "Cancel", "Check", "Claim", "Create", "Download", "Get", "List", "Register", "Renew", "Watch"}


def test_the_documentation_is_there(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert "<script>" not in page.text
    for address in loaded:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/searches" in paths
    assert "/v1/candidates/{candidate_id}/onnx" in paths


def test_the_openapi_document_says_how_to_sign_in_and_what_is_refused(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    refusals = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = [scope for needed in operation.get("security", []) for scope in needed["HTTPBearer"]]
            assert len(scopes) == path.startswith("/v1/"), f"{method} {path} does not declare one scope"
            assert set(scopes) <= set(SCOPES)
            refused = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            for answer in refused.values():
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemDocument"}
            refusals[f"{method} {path}"] = set(map(int, refused))
    assert refusals["get /healthz"] == set()
    assert refusals["get /readyz"] == {503}
    assert refusals["get /v1/probe.py"] == {401, 403, 429, 500, 503}
    assert refusals["get /v1/devices/{name}"] == {401, 403, 404, 422, 429, 500, 503}
    assert refusals["post /v1/devices"] == {401, 403, 409, 413, 422, 429, 500, 503}
    assert refusals["post /v1/searches"] == {401, 403, 404, 409, 413, 422, 429, 500, 503, 507}
    assert {name for name, codes in refusals.items() if 409 in codes} == {
        "get /v1/finetunes/{fine_tuning_id}/onnx",
        "get /v1/finetunes/{fine_tuning_id}/weights",
        "post /v1/devices",
        "post /v1/devices/{name}/measurements",
        "post /v1/devices/{name}/jobs/claim",
        "post /v1/devices/{name}/jobs/{job_id}/renew",
        "post /v1/devices/{name}/jobs/{job_id}/results",
        "post /v1/finetunes/{fine_tuning_id}/cancel",
        "post /v1/searches",
        "post /v1/searches/{search_id}/cancel",
        "post /v1/supernets/{supernet_id}/refit",
    }
    assert "HTTPValidationError" not in str(document)


def test_the_committed_document_is_the_services() -> None:
    told = json.loads(openapi_text())
    if json.loads((REPOSITORY / "docs" / "openapi.json").read_text("utf-8")) != told:
        pytest.fail("docs/openapi.json is not what the service says; run `make openapi` and commit the file")


def bodies_with_examples(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is not None:
                yield method, path, content


def test_every_example_is_accepted(
    client: TestClient, context: Context, supernet: str, measurements: dict[str, Any], latency_model: LatencyModel
) -> None:
    add_device(context, "phone", measurements, latency_model, HOST)
    with context.database.reading() as session:
        bundle_hash = session.get_one(Supernet, supernet).bundle_hash
    document = client.get("/openapi.json").json()
    sent = 0
    for method, path, content in bodies_with_examples(document):
        examples = content.get("examples", {})
        assert examples or path.startswith(WITHOUT_EXAMPLES), (
            f"{method} {path} shows no example; see searches/examples.py"
        )
        for example in examples.values():
            assert set(example) == {"summary", "value"}
            body = {**example["value"], **({"bundle_hash": bundle_hash} if "bundle_hash" in example["value"] else {})}
            answer = client.request(method, path, json=body)
            assert answer.status_code in (200, 201, 202), answer.text
            assert str(answer.status_code) in document["paths"][path][method]["responses"]
            sent += 1
    assert sent >= 8


def test_each_operation_is_titled_with_a_verb_and_its_object(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    titles = [operation["summary"] for operations in paths.values() for operation in operations.values()]
    assert {"Create a search", "List devices"} <= set(titles)
    assert len(set(titles)) == len(titles)
    for title in titles:
        verb, *words = title.split()
        assert verb in VERBS, title
        assert set(words) - {"a", "an", "the"}, f"{title!r} has no object"
