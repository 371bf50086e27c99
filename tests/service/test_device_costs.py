"""Limits on a device's memory and energy, from what a probe posts to what verification measures."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.arrays import Floats
from evolution.costs import CostTables
from service.cli.latency_card import latency_card
from service.context import Context
from service.devices.measurements import fit, told_costs, told_fields
from service.devices.schemas import MeasurementsIn, NetworkMeasured
from service.searches.job import run_search
from service.searches.refit import fit_together
from service.storage.tables import MeasurementJob
from supernet.space import Architecture, Genomes
from tests.support.command_line import Ran
from tests.support.databases import sqlite_unless_asked
from tests.support.service import HOST, add_device, ask, make_measurements, make_result
from tests.support.worker import Steps, shown

MEMORY, ENERGY = "device_memory_bytes", "energy_mj"

database_url = sqlite_unless_asked


def memory(tables: CostTables, genomes: Genomes) -> Floats:
    """Bytes: what the runtime holds, and two copies of the weights."""
    return np.rint(2e6 + 8 * tables.params(genomes))


def energy(tables: CostTables, genomes: Genomes) -> Floats:
    """Millijoules, in proportion to multiply-adds."""
    return 0.5 + 1e-6 * tables.flops(genomes)


def genomes_of(tables: CostTables, networks: list[dict[str, Any]]) -> Genomes:
    return np.stack([tables.space.encode(Architecture.from_json(network["architecture"])) for network in networks])


def telling(tables: CostTables, **noise: float) -> dict[str, Any]:
    """Measurements of a device that tells memory and energy, with relative noise on them."""
    body, rng = make_measurements(tables, np.random.default_rng(1)), np.random.default_rng(2)
    genomes = genomes_of(tables, body["networks"])
    count = len(genomes)
    bytes_ = memory(tables, genomes) * rng.normal(1, noise.get(MEMORY, 0.001), count)
    millijoules = energy(tables, genomes) * np.abs(rng.normal(1, noise.get(ENERGY, 0.01), count))
    told = zip(body["networks"], bytes_.tolist(), millijoules.tolist(), strict=True)
    networks = [{**network, "memory_bytes": round(b), "joules": mj / 1e3} for network, b, mj in told]
    return {**body, "networks": networks}


@pytest.fixture(scope="module")
def told(tables: CostTables) -> dict[str, Any]:
    return telling(tables)


@pytest.fixture
def board(context: Context, supernet: str, tables: CostTables, told: dict[str, Any]) -> str:
    """A device that tells memory and energy."""
    return add_device(context, "board", told, fit(tables, MeasurementsIn(**told)), HOST)


def middle(tables: CostTables, of: Any) -> float:
    return float(np.quantile(of(tables, tables.space.sample(np.random.default_rng(3), 200)), 0.3))


def test_the_answer_is_within_limits_on_memory_and_energy_as_predicted(
    client: TestClient, board: str, tables: CostTables
) -> None:
    most = {MEMORY: middle(tables, memory), ENERGY: middle(tables, energy)}
    body: dict[str, Any] = {f"max_{name}": value for name, value in most.items()}
    search = ask(client, device=board, max_latency_ms=1.0, **body).json()
    best = search["best"]
    genome = tables.space.encode(Architecture.from_json(best["arch"]))[None]
    assert best[f"predicted_{MEMORY}"][board] == pytest.approx(memory(tables, genome)[0], rel=0.005)
    assert best[f"predicted_{ENERGY}"][board] == pytest.approx(energy(tables, genome)[0], rel=0.05)
    assert best[f"measured_{MEMORY}"] is None
    limits = {limit["cost"]: limit for limit in search["limits"]}
    for name, value in most.items():
        assert limits[name]["value"] == best[f"predicted_{name}"][board] <= value == limits[name]["max"]
        assert (limits[name]["holds"], limits[name]["device"], limits[name]["upper"]) == ("predicted", board, None)
    assert search["limits_hold"] == "predicted"
    assert search["optimality"]["proven"]
    assert ask(client, limits=[{"cost": ENERGY, "max": most[ENERGY], "device": board}]).status_code == 201
    row = client.get(f"/v1/searches/{search['id']}/front", headers={"Accept": "text/csv"}).text.splitlines()[0]
    assert {f"predicted_{MEMORY}@board", f"predicted_{ENERGY}@board"} <= set(row.split(","))


def test_the_least_energy_is_an_objective_and_fronts_are_of_it(
    client: TestClient, board: str, tables: CostTables
) -> None:
    least = ask(client, device=board, objective=ENERGY, min_accuracy=0.93).json()
    assert least["min_accuracy_reached"]
    front = ask(client, device=board, objective="pareto", objectives=[ENERGY]).json()["front"]
    values = [member[f"predicted_{ENERGY}"][board] for member in front]
    assert values == sorted(values)
    query = {"supernet": least["supernet"], "x": MEMORY, "device": board}
    stored = client.get("/v1/fronts", params=query).json()["items"]
    assert stored
    refused = client.get("/v1/fronts", params={**query, "device": ""})
    assert refused.status_code == 422
    answer = ask(client, objective=ENERGY, min_accuracy=0.93)
    assert (answer.status_code, answer.json()["detail"]) == (422, "energy_mj as an objective needs a device")


def test_an_impossible_budget_is_refused_with_the_floor(client: TestClient, board: str, tables: CostTables) -> None:
    answer = ask(client, device=board, max_device_memory_bytes=1_000_000)
    problem = answer.json()
    floor = problem["floors"]["device_memory_bytes@board"]
    smallest = memory(tables, tables.space.sample(np.random.default_rng(0), 2_000)).min()
    assert answer.status_code == 422
    assert problem["proven"]
    assert 0.99 * 2e6 < floor <= smallest * 1.005
    assert "device_memory_bytes@board is limited to 1,000,000, and no architecture" in problem["detail"]
    enough = ask(client, device=board, max_device_memory_bytes=floor).json()
    assert enough["best"][f"predicted_{MEMORY}"][board] == floor


def test_a_device_that_told_nothing_is_named_with_what_to_do(client: TestClient, device: str) -> None:
    for field, remedy in (("max_device_memory_bytes", "supple probe --memory"), ("max_energy_mj", "RAPL")):
        limit: dict[str, Any] = {field: 1e9}
        answer = ask(client, device=device, **limit)
        assert answer.status_code == 422
        assert f"the newest measurements of device 'board' have no {field[4:]}" in answer.json()["detail"]
        assert remedy in answer.json()["detail"]
        answer = ask(client, **limit)
        assert (answer.status_code, answer.json()["detail"]) == (422, f"{field[4:]} needs a device")


def test_a_prediction_above_the_bar_refuses_limits_and_the_card_says_so(
    client: TestClient, supernet: str, tables: CostTables
) -> None:
    client.post("/v1/devices", json={"name": "board"})
    posted = client.post("/v1/devices/board/measurements", json=telling(tables, energy_mj=0.6)).json()
    cards = posted["card"]["beside"]
    assert cards[MEMORY]["refused"] is None
    assert cards[MEMORY]["mean_absolute_percentage_error"] < 1
    assert cards[ENERGY]["mean_absolute_percentage_error"] > cards[ENERGY]["most_error"] == 10
    answer = ask(client, device="board", max_energy_mj=1.0)
    assert answer.status_code == 422
    assert "energy_mj@board cannot be predicted: predictions for networks that" in answer.json()["detail"]
    best = ask(client, device="board", max_device_memory_bytes=1e9).json()["best"]
    assert best[f"predicted_{ENERGY}"] == {}
    assert "board" in best[f"predicted_{MEMORY}"]


@pytest.mark.parametrize(("field", "value"), [("memory_bytes", 2**60), ("joules", 1e300)])
def test_memory_and_energy_that_no_network_needs_are_refused(
    client: TestClient, supernet: str, told: dict[str, Any], field: str, value: float
) -> None:
    client.post("/v1/devices", json={"name": "board"})
    networks = [{**network, field: value} for network in told["networks"]]
    answer = client.post("/v1/devices/board/measurements", json={**told, "networks": networks})
    assert answer.status_code == 422
    assert f"networks[0].{field} is" in answer.json()["detail"]


def test_a_counter_that_hardly_moves_gives_no_model(client: TestClient, supernet: str, told: dict[str, Any]) -> None:
    client.post("/v1/devices", json={"name": "board"})
    networks = [{**told["networks"][0], "joules": 5e-324}, *told["networks"][1:]]
    answer = client.post("/v1/devices/board/measurements", json={**told, "networks": networks})
    assert answer.status_code == 201
    assert "1 of the 40 measured networks have 0 or next to it" in answer.json()["card"]["beside"][ENERGY]["refused"]


def verify(client: TestClient, context: Context, tables: CostTables, factor: float | None, **limits: Any) -> Any:
    """A verified search, whose finalists a probe measures.

    factor: what they take of memory and energy, over the truth; None: the device tells neither.
    """
    search_id = ask(client, device="board", max_latency_ms=1.0, verify=True, **limits).json()["id"]
    run_search(context, Steps(), search_id)
    while (claimed := client.post("/v1/devices/board/jobs/claim", json={"host": HOST})).status_code == 200:
        job = claimed.json()
        assert job["memory"] is (f"max_{MEMORY}" in limits)
        with context.database.reading() as session:
            expected = session.get_one(MeasurementJob, job["id"]).expected_ms
        ratios = {name: ms / 0.5 for name, ms in expected.items()}
        result = make_result(job["plan_hash"], job["space_hash"], HOST, ratios, np.random.default_rng(0))
        for name, sampled in result["measurements"].items():
            arch = client.get(f"/v1/candidates/{name}").json()["arch"]
            genome = tables.space.encode(Architecture.from_json(arch))[None]
            if factor is not None:
                sampled["memory_bytes"] = round(factor * memory(tables, genome)[0])
                sampled["joules"] = factor * energy(tables, genome)[0] / 1e3
        path = f"/v1/devices/board/jobs/{job['id']}/results"
        assert client.post(path, json={"claim": job["claim"], "result": result}).status_code == 200
        run_search(context, Steps(), search_id)
    return shown(client, search_id)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.searches.finalists.ROUND", 2)
    monkeypatch.setattr("service.searches.finalists.ROUNDS", 1)


@pytest.mark.usefixtures("few")
def test_verification_measures_memory_and_energy_and_says_whether_they_hold(
    client: TestClient, context: Context, board: str, tables: CostTables
) -> None:
    limits = {f"max_{MEMORY}": middle(tables, memory), f"max_{ENERGY}": middle(tables, energy)}
    search = verify(client, context, tables, 0.9, **limits)
    assert (search["status"], search["limits_hold"]) == ("done", "measured")
    best = search["best"]
    genome = tables.space.encode(Architecture.from_json(best["arch"]))[None]
    assert best[f"measured_{MEMORY}"] == {board: round(0.9 * memory(tables, genome)[0])}
    assert best[f"measured_{ENERGY}"][board] == pytest.approx(0.9 * energy(tables, genome)[0])
    assert best[f"predicted_{ENERGY}"][board] > best[f"measured_{ENERGY}"][board]
    for limit in search["limits"]:
        if limit["cost"] in (MEMORY, ENERGY):
            assert (limit["holds"], limit["value"]) == ("measured", best[f"measured_{limit['cost']}"][board])
    page = client.get(f"/searches/{search['id']}").text
    assert "Device memory on board" in page
    assert "Energy on board" in page


@pytest.mark.usefixtures("few")
def test_no_finalist_holds_a_limit_that_all_exceed_as_measured(
    client: TestClient, context: Context, board: str, tables: CostTables
) -> None:
    search = verify(client, context, tables, 1.5, **{f"max_{MEMORY}": middle(tables, memory)})
    assert search["status"] == "not_verified"
    assert "measured device_memory_bytes on board is 3," in search["problem"]["detail"]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("factor", [None, 0.0])
def test_what_a_device_does_not_tell_in_verification_holds_as_predicted(
    client: TestClient, context: Context, board: str, tables: CostTables, factor: float | None
) -> None:
    search = verify(client, context, tables, factor, **{f"max_{ENERGY}": middle(tables, energy)})
    assert search["best"][f"measured_{ENERGY}"] is None
    assert (search["status"], search["limits_hold"]) == ("done", "predicted")
    assert {limit["cost"]: limit["holds"] for limit in search["limits"]} == {
        "latency_ms": "measured",
        ENERGY: "predicted",
    }


def test_the_command_line_limits_memory_and_energy_on_a_measured_file(
    run: Callable[..., Ran], bundle_path: Path, tables: CostTables, told: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "board.json"
    file.write_text(json.dumps(told))
    most = middle(tables, energy)
    command = ["search", str(bundle_path), "--device", str(file), "--max-device-memory", "2.4MB"]
    found = run(*command, "--max-energy-mj", f"{file}={most}mJ", "--json")
    assert found.code == 0, found.stderr
    best = json.loads(found.stdout)["best"]
    assert best[f"predicted_{MEMORY}"]["board"] <= 2_400_000
    assert best[f"predicted_{ENERGY}"]["board"] <= most
    shown = run(*command)
    assert "predicted device memory" in shown.stdout
    assert "on board   limit 2,400,000" in shown.stdout
    assert "predicted energy" in shown.stdout
    refused = run(*command[:-1], "1MB")
    assert refused.code == 2
    assert "device_memory_bytes@board is limited to 1,000,000" in refused.stderr
    missing = run("search", str(bundle_path), "--max-energy-mj", "1J")
    assert missing.code == 2
    assert "energy needs --device" in missing.stderr


def test_what_verification_measured_becomes_a_measured_network_again() -> None:
    assert told_fields(told_costs(7_000, 0.25)) == {"memory_bytes": 7_000, "joules": 0.25}
    assert told_fields(told_costs(None, 0.25)) == {"joules": 0.25}
    assert told_fields(told_costs(None, None)) == {}


@pytest.mark.parametrize(("factor", "is_kept"), [(1.0, True), (3.0, False)])
def test_what_verification_measured_takes_no_limits_away(
    tables: CostTables, told: dict[str, Any], factor: float, is_kept: bool
) -> None:
    body = MeasurementsIn(**told)
    genomes = tables.space.sample(np.random.default_rng(5), 20)
    old = fit(tables, body)
    rows = zip(genomes, old.predict(genomes).tolist(), energy(tables, genomes).tolist(), strict=True)
    verified = [
        NetworkMeasured.model_validate(
            {"architecture": tables.space.decode(genome).to_json(), "ms": ms, "joules": factor * mj / 1e3}
        )
        for genome, ms, mj in rows
    ]
    together, fitted = fit_together(tables, body, verified, {}, old)
    assert len(together.networks) == len(body.networks) + len(verified)
    assert set(fitted.limitable) == {MEMORY, ENERGY}
    assert all((network.joules is not None) is is_kept for network in together.networks[-len(verified) :])


def test_a_card_in_words_has_the_errors_of_memory_and_energy(tables: CostTables) -> None:
    text = latency_card(fit(tables, MeasurementsIn(**telling(tables, energy_mj=0.6))).card)
    assert re.search(r"^device memory 0\.\d %, bias", text, re.MULTILINE)
    assert "limits on energy are refused: predictions for networks that the fit did not see are off by" in text


def test_the_form_asks_for_memory_and_energy_where_the_device_tells_them(
    client: TestClient, board: str, tables: CostTables, supernet: str
) -> None:
    home = client.get("/").text
    assert 'name="max_device_memory_bytes"' in home
    assert 'name="max_energy_mj"' in home
    typed = {"supernet": supernet, "device": board, "max_energy_mj": f"{middle(tables, energy):.4g} mJ"}
    page = client.post("/searches", data=typed, headers={"Origin": "http://localhost:8000"})
    assert page.is_success, page.text
    assert "Energy on board" in page.text
    assert 'value="' + f"{middle(tables, energy):.4g}" in page.text
    fronts = client.get("/fronts", params={"supernet": supernet, "device": board, "x": "energy_mj"})
    assert "Energy on board" in fronts.text


def test_the_form_does_not_ask_a_device_that_told_nothing(client: TestClient, device: str) -> None:
    home = client.get("/").text
    assert 'name="max_latency_ms"' in home
    assert 'name="max_energy_mj"' not in home


def test_the_page_of_fronts_shows_another_cost_where_a_device_told_nothing(client: TestClient, device: str) -> None:
    supernet = ask(client, device=device, max_latency_ms=1.0).json()["supernet"]
    page = client.get("/fronts", params={"supernet": supernet, "device": device, "x": ENERGY, "y": "latency_ms"})
    assert page.is_success
    assert '<option value="flops" selected>' in page.text
    page = client.get("/fronts", params={"supernet": supernet, "device": device, "x": "flops", "y": MEMORY})
    assert page.is_success
