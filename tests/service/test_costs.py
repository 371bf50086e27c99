"""The table of costs: everything else follows from it, and a further cost is one more row."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.costs import COUNTED, CostTables
from service.costs import COSTS, counted_costs
from service.quantities import quantity
from service.settings import Settings
from supernet.space import Architecture
from tests.support.databases import sqlite_unless_asked
from tests.support.heat import heat_cost
from tests.support.waiting import wait

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "tests.support.heat"]

database_url = sqlite_unless_asked


def test_each_cost_that_can_be_counted_has_a_row() -> None:
    assert {kind.name: kind.build for kind in counted_costs()} == COUNTED


@pytest.mark.parametrize("kind", COSTS, ids=lambda kind: kind.name)
def test_the_example_of_a_limit_is_a_limit(kind: Any) -> None:
    assert quantity(kind.example, kind.units) > 0


# A further cost.


@pytest.fixture
def stored(client: TestClient, supernet: str) -> dict[str, Any]:
    """A candidate that a service without the further cost has stored."""
    answer: dict[str, Any] = client.post("/v1/searches", json={"max_flops": 1e6, "budget": 300}).json()
    best: dict[str, Any] = answer["best"]
    assert "heat_mj" not in best
    return best


@pytest.fixture
def http(settings: Settings, stored: dict[str, Any]) -> Iterator[httpx2.Client]:
    """HTTP to a service that has the further cost, on the same database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"SUPPLE_DATA_DIRECTORY": str(settings.data_directory), "SUPPLE_DATABASE_URL": settings.database}
    process = subprocess.Popen(
        [*COMMAND, "serve", "--no-worker", "--port", str(port)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as http:
            wait(lambda: is_up(http) or process.poll() is not None, "the service")
            yield http
    finally:
        process.terminate()
        process.wait()


def is_up(http: httpx2.Client) -> bool:
    try:
        return http.get("/v1/supernets").is_success
    except httpx2.TransportError:
        return False


def heat_of(arch: dict[str, Any], tables: CostTables) -> float:
    return float(heat_cost(tables)(tables.space.encode(Architecture.from_json(arch))[None])[0])


@pytest.mark.slow
def test_one_row_makes_a_further_cost_of_the_service(
    http: httpx2.Client, stored: dict[str, Any], tables: CostTables
) -> None:
    heat = heat_cost(tables)
    floor, ceiling = float(heat.floors.min()), heat.ceiling
    middle = (floor + ceiling) / 2

    # Candidates stored before.
    candidate = http.get(f"/v1/candidates/{stored['id']}").json()
    assert candidate["heat_mj"] == heat_of(candidate["arch"], tables)

    # A limit.
    body = {"budget": 300, "warm_start": False}
    answer = http.post("/v1/searches", json={**body, "max_heat_mj": middle}).json()
    best = answer["best"]
    assert best["heat_mj"] == heat_of(best["arch"], tables) <= middle
    (limit,) = answer["limits"]
    assert (limit["cost"], limit["max"], limit["value"]) == ("heat_mj", middle, best["heat_mj"])
    assert limit["holds"] == answer["limits_hold"] == "counted"
    assert http.post("/v1/searches", json={**body, "limits": [{"cost": "heat_mj", "max": middle}]}).is_success

    # An objective.
    cheapest = http.post("/v1/searches", json={**body, "objective": "heat_mj", "min_accuracy": 0.93}).json()
    assert cheapest["min_accuracy_reached"]
    assert cheapest["best"]["heat_mj"] < best["heat_mj"]

    # A refusal.
    refusal = http.post("/v1/searches", json={**body, "max_heat_mj": floor / 2})
    assert refusal.status_code == 422
    problem = refusal.json()
    assert problem["floors"] == {"heat_mj": floor}
    assert f"heat_mj is limited to {floor / 2:g}" in problem["detail"]

    # A front.
    front = http.get("/v1/fronts", params={"supernet": answer["supernet"], "x": "heat_mj"}).json()
    assert front["reference"] == {"error": 1, "heat_mj": ceiling}
    heats = [member["heat_mj"] for member in front["items"]]
    assert heats == sorted(heats)
    assert min(heats) <= cheapest["best"]["heat_mj"]

    # The OpenAPI document.
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert "max_heat_mj" in schemas["SearchIn"]["properties"]
    assert schemas["CandidateOut"]["properties"]["heat_mj"]["type"] == "number"
    assert "heat_mj" in schemas["LimitIn"]["properties"]["cost"]["enum"]
    assert "heat_mj" in schemas["SearchIn"]["properties"]["objective"]["enum"]

    # The pages.
    home = http.get("/").text
    assert '<input id="max_heat_mj" name="max_heat_mj"' in home
    assert '<option value="heat_mj" >the front against heat</option>' in home
    page = http.post("/searches", data={"supernet": answer["supernet"], "max_heat_mj": f"{middle / 1e3!r} J"})
    assert page.is_success
    chart = json.loads(page.text.split('id="front-data">')[1].split("</script>")[0])
    assert chart["axes"][chart["axis"]]["name"] == "Heat"
    assert chart["axes"][chart["axis"]]["limit"] == middle
    assert "The network with the lowest heat" in http.get(f"/searches/{cheapest['id']}").text
    assert f"{middle:.10g}\N{NARROW NO-BREAK SPACE}mJ" in page.text
    assert "Heat" in http.get("/fronts", params={"x": "heat_mj"}).text


@pytest.mark.slow
def test_one_row_makes_a_further_cost_of_the_command_line(bundle_path: Path, tables: CostTables) -> None:
    heat = heat_cost(tables)
    largest = float(heat(tables.space.encode(tables.space.largest())[None])[0])

    def search(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [*COMMAND, "search", str(bundle_path), "--evaluations", "300", *options]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )

    shown = search("--max-heat-mj", f"{largest / 2}mJ")
    assert shown.returncode == 0, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("heat ")]
    assert "millijoules" in line
    assert f"limit {largest / 2:,}" in line
    cheapest = search("--minimise", "heat_mj", "--min-accuracy", "93%", "--json")
    assert cheapest.returncode == 0, cheapest.stderr
    best = json.loads(cheapest.stdout)["best"]
    assert best["heat_mj"] == heat_of(best["arch"], tables) < np.inf
    refused = search("--max-heat-mj", f"{heat.floors.min() / 2}")
    assert refused.returncode == 2
    assert f"{heat.floors.min():,}" in refused.stderr
