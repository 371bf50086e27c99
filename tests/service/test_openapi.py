"""The OpenAPI document and its page."""

import re

from fastapi.testclient import TestClient

VERBS = {"Add", "Cancel", "Check", "Claim", "Create", "Download", "Get", "List", "Register", "Renew"}


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
            assert ("security" in operation) == path.startswith("/v1/")
            refused = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            for answer in refused.values():
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemDocument"}
            refusals[f"{method} {path}"] = set(map(int, refused))
    assert refusals["get /healthz"] == set()
    assert refusals["get /readyz"] == {503}
    assert refusals["get /v1/probe.py"] == {401, 500, 503}
    assert refusals["get /v1/devices/{name}"] == {401, 404, 422, 500, 503}
    assert refusals["post /v1/devices"] == {401, 403, 409, 413, 422, 500, 503}
    assert refusals["post /v1/searches"] == {401, 403, 404, 409, 413, 422, 500, 503, 507}
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
    }
    assert "HTTPValidationError" not in str(document)


def test_each_operation_is_titled_with_a_verb_and_its_object(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    titles = [operation["summary"] for operations in paths.values() for operation in operations.values()]
    assert {"Create a search", "List devices"} <= set(titles)
    assert len(set(titles)) == len(titles)
    for title in titles:
        verb, *words = title.split()
        assert verb in VERBS, title
        assert set(words) - {"a", "an", "the"}, f"{title!r} has no object"
