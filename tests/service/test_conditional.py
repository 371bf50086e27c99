"""Entity tags."""

import pytest
from fastapi.testclient import TestClient

from service.web.conditional import matches
from tests.support.service import ask


@pytest.mark.parametrize("path", ["/v1/supernets", "/v1/devices/board", "/v1/searches", "{search}", "{front}.csv"])
def test_what_a_client_has_is_not_sent_again(client: TestClient, supernet: str, device: str, path: str) -> None:
    search = f"/v1/searches/{ask(client, supernet=supernet).json()['id']}"
    path = path.format(search=search, front=f"{search}/front")
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "private, no-cache"
    again = client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_a_list_that_changed_is_sent(client: TestClient, supernet: str) -> None:
    tag = client.get("/v1/devices").headers["etag"]
    client.post("/v1/devices", json={"name": "new"})
    assert client.get("/v1/devices", headers={"If-None-Match": tag}).status_code == 200


def test_refusals_and_probes_have_no_tag(client: TestClient) -> None:
    for path in ("/v1/devices/none", "/healthz"):
        answer = client.get(path, headers={"If-None-Match": "*"})
        assert answer.status_code in (200, 404)
        assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("header", "matched"), [("*", True), ('"a"', True), ('"b", W/"a"', True), ('"b"', False), ("a", False), ("", False)]
)
def test_the_header_names_tags(header: str, matched: bool) -> None:
    assert matches(header, '"a"') == matched
