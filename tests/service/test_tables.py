"""CSV, and when it is sent."""

import csv
import io
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.web.tables import csv_text, prefers_csv
from tests.support.service import ask


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("text/csv", True),
        ("text/csv;q=0.9, application/json;q=0.5", True),
        ("TEXT/CSV; charset=utf-8", True),
        ("text/*, application/json;q=0.1", True),
        ("application/json, text/csv", False),
        ("text/html, */*;q=0.8", False),
        ("text/csv;q=0", False),
        ("text/csv;q=x, application/json;q=0.2", True),
        ("*/*", False),
        ("", False),
        (",;,", False),
    ],
)
def test_csv_is_sent_to_those_who_prefer_it(accept: str, preferred: bool) -> None:
    assert prefers_csv(accept) == preferred


def test_a_table_is_quoted_and_runs_nothing() -> None:
    rows: list[dict[str, Any]] = [
        {"name": 'a "quoted", name', "value": -1.5, "note": "=1+1"},
        {"name": "two\nlines", "value": None, "note": "@x"},
        {"name": "+49", "value": 2, "note": "-1"},
    ]
    written = csv_text(["name", "value", "note"], rows)
    read = list(csv.reader(io.StringIO(written, newline="")))
    assert read == [
        ["name", "value", "note"],
        ['a "quoted", name', "-1.5", "'=1+1"],
        ["two\nlines", "", "'@x"],
        ["'+49", "2", "'-1"],
    ]


def test_a_front_is_a_table_with_a_column_for_each_device(client: TestClient, supernet: str, device: str) -> None:
    body: dict[str, Any] = {"supernet": supernet, "device": device, "objective": "pareto", "objectives": ["latency_ms"]}
    search = ask(client, **body).json()
    path = f"/v1/searches/{search['id']}/front"
    answer = client.get(path, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text == client.get(f"{path}.csv").text
    members = client.get(path).json()
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["id"] for row in rows] == [member["id"] for member in members]
    for row, member in zip(rows, members, strict=True):
        assert float(row[f"predicted_latency_ms@{device}"]) == member["predicted_latency_ms"][device]
        assert int(row["flops"]) == member["flops"]
        assert json.loads(row["arch"]) == member["arch"]
        assert row["verified_accuracy"] == ""

    query = {"supernet": supernet, "device": device}
    merged = client.get("/v1/fronts.csv", params=query)
    assert 'filename="front-' in merged.headers["content-disposition"]
    items = client.get("/v1/fronts", params=query).json()["items"]
    assert [row["id"] for row in csv.DictReader(io.StringIO(merged.text))] == [item["id"] for item in items]


def test_an_empty_front_has_a_header(client: TestClient, supernet: str) -> None:
    answer = client.get("/v1/fronts", params={"supernet": supernet, "x": "flops"}, headers={"Accept": "text/csv"})
    (header,) = csv.reader(io.StringIO(answer.text))
    assert {"id", "flops", "predicted_accuracy", "arch"} <= set(header)
