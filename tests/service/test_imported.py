"""Latencies that others measured."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.costs import CostTables
from service.context import Context
from service.devices.imported import read_latencies
from supernet.bundle import Bundle
from supernet.export.probe_plan import network_plan, write_plan
from tests.support.command_line import Ran, refused

Rows = list[tuple[dict[str, Any], float]]


@pytest.fixture(scope="module")
def rows(tables: CostTables) -> Rows:
    """Thirty networks on a device whose parts take time in proportion to their work."""
    genomes = np.unique(tables.space.sample(np.random.default_rng(3), 40), axis=0)[:30]
    ms = 0.02 + tables.flops(genomes) / 4e7
    return [(tables.space.decode(genome).to_json(), float(value)) for genome, value in zip(genomes, ms, strict=True)]


def as_csv(rows: Rows, column: str = "ms", factor: float = 1.0) -> str:
    quoted = (f'"{json.dumps(arch)}"'.replace('"', '""')[1:-1] for arch, _ in rows)
    lines = (f"{arch},{ms * factor!r}" for arch, (_, ms) in zip(quoted, rows, strict=True))
    return "\n".join([f"architecture, {column}", *lines])


FORMS: Mapping[str, Callable[[Rows], str]] = {
    "CSV": as_csv,
    "CSV in microseconds": lambda rows: as_csv(rows, "latency_us", 1e3),
    "CSV in seconds": lambda rows: as_csv(rows, "seconds", 1e-3),
    "JSON list": lambda rows: json.dumps([{"architecture": arch, "ms": ms} for arch, ms in rows]),
    "JSON like a probe's": lambda rows: json.dumps(
        {"networks": [{"architecture": arch, "ms": ms, "spread": 0.01} for arch, ms in rows]}
    ),
    "Qualcomm AI Hub": lambda rows: json.dumps(
        [
            {"architecture": arch, "profile": {"execution_summary": {"estimated_inference_time": 1000 * ms}}}
            for arch, ms in rows
        ]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_read(form: str, rows: Rows, tables: CostTables, tmp_path: Path) -> None:
    file = tmp_path / "table"
    file.write_text(FORMS[form](rows))
    read = read_latencies([file], tables.space, skip=False)
    assert [arch.to_json() for arch, _ in read.networks] == [arch for arch, _ in rows]
    assert [ms for _, ms in read.networks] == pytest.approx([ms for _, ms in rows])
    assert (read.skipped, read.repeated) == ((), 0)


def test_profiles_are_named_like_the_networks_of_a_plan(rows: Rows, tables: CostTables, tmp_path: Path) -> None:
    space, plan = tables.space, tmp_path / "plan.zip"
    genomes = space.sample(np.random.default_rng(0), 2)
    write_plan(plan, space, network_plan(space, genomes))
    files = [tmp_path / f"network-{space.id(genome)}.json" for genome in genomes]
    for file in files:
        file.write_text(json.dumps({"execution_summary": {"all_inference_times": [900, 100, 300]}}))
    read = read_latencies(files, space, plan, skip=False)
    assert [(space.id(arch), ms) for arch, ms in read.networks] == [(space.id(g), 0.3) for g in genomes]
    with pytest.raises(ValueError, match="give the plan that holds it with --plan"):
        read_latencies(files, space, skip=False)
    table = tmp_path / "app.json"
    table.write_text(json.dumps({f"{space.id(genomes[0])}.onnx": 0.7, "network-0.onnx": 0.8}))
    with pytest.raises(ValueError, match=r"1 of 2 rows .*\n.*row 2: network is 'network-0.onnx'; the plan has no such"):
        read_latencies([table], space, plan, skip=False)


def test_bad_rows_are_all_listed_and_only_left_out_when_told(rows: Rows, tables: CostTables, tmp_path: Path) -> None:
    other = {"resolution": 16, "stages": [[[9, 9]]]}
    lines = [*as_csv(rows).splitlines(), "no json,1.0", f'"{json.dumps(other)}"'.replace('"', '""')[1:-1] + ",1.0"]
    lines += [as_csv([(rows[0][0], 1.0)], "ms", factor).splitlines()[1] for factor in (-1, float("nan"))]
    lines += [as_csv(rows[:1]).splitlines()[1].rpartition(",")[0] + ",fast", as_csv(rows[:1]).splitlines()[1]]
    file = tmp_path / "table.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"5 of 36 rows cannot be used; nothing was imported") as error:
        read_latencies([file], tables.space, skip=False)
    for part in ("line 32: architecture is 'no json'", "line 33: 1 stages", "ms is '-1", "ms is 'nan'", "ms is 'fast'"):
        assert part in str(error.value)
    read = read_latencies([file], tables.space, skip=True)
    assert (len(read.networks), len(read.skipped), read.repeated) == (30, 5, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has the columns of no header"),
        ("architecture,joules\n{},1", "has the columns architecture, joules; a row needs `architecture` or `network`"),
        ("architecture,ms\n", "0 rows; 1 to 20,000 can be imported"),
        ("[{]", "is not JSON"),
        ('{"space": "mine", "space_hash": "0", "networks": []}', "is a table of search space mine, not of"),
        ('[{"architecture": {"resolution": 224, "stages": []}, "ms": 1}, 3]', "Is it a table of another search space?"),
    ],
)
def test_what_is_no_table_of_this_space_is_refused(
    content: str, message: str, tables: CostTables, tmp_path: Path
) -> None:
    file = tmp_path / "table"
    file.write_text(content)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        read_latencies([file], tables.space, skip=False)


def test_the_command_adds_the_device_to_the_bundle(
    bundle_path: Path, rows: Rows, tables: CostTables, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    import shutil

    bundle = shutil.copytree(bundle_path, tmp_path / "bundle")
    table = tmp_path / "table.csv"
    table.write_text(as_csv(rows, "ms", 1e-3))
    ran = run("import-latencies", str(bundle), str(table), "--device", "phone")
    refused(ran, 2, r"are these seconds\? Send milliseconds")
    assert not Bundle.open(bundle).devices
    table.write_text(as_csv(rows))
    refused(run("import-latencies", str(bundle), str(table), "--device", "my phone"), 2, "--device is 'my phone'")
    ran = run("import-latencies", str(bundle), str(table), "--device", "phone")
    assert ran.code == 0, ran.stderr
    assert "30 networks of phone" in ran.stdout
    assert "one more network would take about" in ran.stdout
    stored = Bundle.open(bundle).devices["phone"]["latency_model"]["card"]
    assert stored["mean_absolute_percentage_error"] < 1
    ran = run("search", str(bundle), "--device", "phone", "--max-latency-ms", "0.04", "--json")
    assert ran.code == 0, ran.stderr
    assert "phone" in ran.stdout


def test_the_service_fits_whole_networks_alone(
    client: TestClient, context: Context, supernet: str, rows: Rows, bundle_path: Path, tmp_path: Path, run: Any
) -> None:
    file, output = tmp_path / "table.csv", tmp_path / "measurements.json"
    file.write_text(as_csv(rows))
    ran = run("import-latencies", str(bundle_path), str(file), "--device", "phone", "-o", str(output))
    assert ran.code == 0, ran.stderr
    measured = json.loads(output.read_text())
    client.post("/v1/devices", json={"name": "phone", "runtime": "app"})
    wrong = {**measured, "networks": [{**network, "ms": network["ms"] / 1000} for network in measured["networks"]]}
    response = client.post("/v1/devices/phone/measurements", json=wrong)
    assert (response.status_code, "are these seconds?" in response.text) == (422, True)
    assert client.get("/v1/devices/phone").json()["latency_models"] == []
    model = client.post("/v1/devices/phone/measurements", json=measured).json()
    assert model["card"]["networks"] == 30
    search = {"supernet": supernet, "limits": [{"cost": "latency_ms", "max": 0.04, "device": "phone"}]}
    assert client.post("/v1/searches", json=search).status_code == 201
