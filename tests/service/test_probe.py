"""The probe cancels drift, accounts for what it subtracts, and names what it cannot measure. No test reads a clock."""

import ast
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.devices import probe
from service.devices.probe import Measurement, Model, Plan, ProbeError, correct, in_ms, measure, run_plan
from supernet.export.probe_plan import network_model, probe_plan, reference_onnx, write_plan
from supernet.families import preset
from supernet.operators import block_key

SPACE = replace(preset("mbv3-digits"), name="tiny", resolutions=(8,), depths=((1,), (1,), (1,)))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.zip"
    write_plan(path, SPACE, probe_plan(SPACE, np.random.default_rng(0), 3))
    return path


@pytest.fixture
def drifting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where every model takes 10 microseconds a byte, getting slower by 1 % with every sample."""
    slowness = iter(1.01**i for i in range(10**6))

    class Runner:
        def __init__(self, name: str, data: bytes, threads: int, batch_size: int) -> None:
            self.size = len(data)

        def sample(self) -> float:
            return self.size / 100 * next(slowness)

    monkeypatch.setattr(probe, "_Runner", Runner)


def test_drift_cancels(drifting: None) -> None:
    measured = measure([Model("short", lambda: b"x" * 3), Model("long", lambda: b"x" * 300)], b"x" * 10)
    assert [one.samples for one in measured] == [probe.ROUNDS] * 2
    ms = in_ms(measured, reference_ms=0.1)
    assert ms["short"] == pytest.approx(0.03, rel=0.011)  # a sample is 1 % later than its reference
    assert ms["long"] == pytest.approx(3.0, rel=0.011)
    assert all(one.spread < 0.011 for one in measured)
    assert measured[0].wall_ms > 0.031  # the plain median does not


@pytest.mark.parametrize("keep", [True, False])
def test_little_time_still_gives_five_samples_and_progress_ends_at_the_total(
    drifting: None, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    loads: list[int] = []
    seen: list[tuple[int, int]] = []

    def load() -> bytes:
        loads.append(1)
        return b"xx"

    if not keep:
        monkeypatch.setattr(probe, "KEEP_BYTES", 1)
    measured = measure([Model("a", load, 2)], b"x", seconds=1e-9, progress=lambda *step: seen.append(step))
    assert measured[0].samples == probe.FEWEST_ROUNDS
    assert len(loads) == 1
    assert seen[-1] == (probe.ROUNDS, probe.ROUNDS)
    assert all(0 < done <= total for done, total in seen)
    if not keep:
        loads.clear()
        assert measure([Model("a", load, 2)], b"x")[0].samples == probe.ROUNDS
        assert len(loads) == probe.ROUNDS / probe.SAMPLES_PER_LOAD


def test_latencies_are_on_the_scale_of_the_reference() -> None:
    measured = [Measurement("a", 2.0, 0.0, 0, ms, 40) for ms in (0.1, 0.3, 0.2)]
    assert in_ms(measured[:1]) == {"a": 0.2}
    assert in_ms([replace(one, name=str(i)) for i, one in enumerate(measured)])["0"] == pytest.approx(0.4)
    assert in_ms(measured[:1], reference_ms=0.5) == {"a": 1.0}


def test_a_block_is_what_was_measured_less_a_call_and_half_of_the_moves_at_both_ends() -> None:
    call, moves = 3.0, {"in": 2.0, "out": 4.0}
    entries: dict[str, dict[str, Any]] = {"empty": {"kind": "empty"}, "n": {"kind": "network"}}
    ms = {"empty": call, "n": 50.0}
    for edge, move in moves.items():
        for layers in (1, 2):
            entries[f"{edge}{layers}"] = {"kind": "edge", "edge": edge, "layers": layers}
            ms[f"{edge}{layers}"] = call + move + 0.5 * layers
    for key, edges in (("first", ["in"]), ("middle", ["in", "out"]), ("lost in noise", ["out"])):
        entries[key] = {"kind": "block", "key": key, "edges": edges}
        ms[key] = call + 10.0 + sum(moves[edge] for edge in edges) / 2
    ms["lost in noise"] = 2.0
    assert correct(entries, ms) == {"first": 10.0, "middle": 10.0, "lost in noise": 0.02}


def test_a_plan_is_measured_completely_and_the_result_is_finite_json(plan: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = run_plan(plan, seconds=0.01, batch_size=2, progress=lambda *step: seen.append(step))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    entries = Plan(plan).entries
    needed = {
        block_key(records)
        for genome in SPACE.sample(np.random.default_rng(0), 300)
        for _, records in SPACE.part_operators(SPACE.decode(genome))
    }
    assert set(result["blocks"]) == needed
    assert len(result["networks"]) == sum(entry["kind"] == "network" for entry in entries.values())
    assert set(result["measurements"]) == set(entries)
    times = [*result["blocks"].values(), *(network["ms"] for network in result["networks"])]
    times += [result["reference_ms"], result["overhead_ms"]]
    assert all(math.isfinite(ms) and ms > 0 for ms in times)
    assert (result["space_hash"], result["threads"], result["batch_size"]) == (SPACE.hash, 1, 2)
    assert result["host"]["runtime"].startswith("onnxruntime ")
    assert seen[-1][0] == seen[-1][1]


def test_the_host_is_the_same_every_time() -> None:
    assert probe.fingerprint() == probe.fingerprint()
    assert probe.fingerprint()["processor"]


def test_a_model_that_does_not_load_is_named() -> None:
    good = network_model(SPACE, SPACE.largest()).onnx()
    with pytest.raises(ProbeError, match="candidate-7 does not run in onnxruntime"):
        measure([Model("good", lambda: good), Model("candidate-7", lambda: good[:100])], reference_onnx())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"batch_size": -1}, "batch size -1"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": math.inf}, "seconds is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        measure([], b"", **settings)


def _damaged(plan: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "nowhere.zip", "no plan at"
    (folder / "text.zip").write_text("not a zip")
    yield folder / "text.zip", "not a plan"
    with zipfile.ZipFile(plan) as file:
        good = json.loads(file.read("plan.json"))
    for name, change, message in (
        ("empty", None, "not a plan"),
        ("format", {"format": 2}, "format 2; this probe reads format 1"),
        ("file", {"models": [{"name": "m", "kind": "block", "file": "lost.onnx"}]}, "lost.onnx"),
        ("list", {"models": 3}, "not a plan"),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
            if change is not None:
                file.writestr("reference.onnx", b"")
                file.writestr("plan.json", json.dumps({**good, "models": [], **change}))
        yield folder / f"{name}.zip", message


def test_what_is_no_plan_is_refused_by_name(plan: Path, tmp_path: Path) -> None:
    for path, message in _damaged(plan, tmp_path):
        with pytest.raises(ProbeError, match=message) as error:
            run_plan(path)
        assert path.name in str(error.value)


def test_the_command_line_writes_the_result_or_says_what_is_wrong(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "measured.json"
    assert probe.main([str(plan), "-o", str(output), "--seconds", "0.01"]) == 0
    assert json.loads(output.read_text())["space"] == "tiny"
    assert probe.main([str(tmp_path / "nowhere.zip"), "-o", str(tmp_path / "other.json")]) == 2
    assert "no plan at" in capsys.readouterr().err
    assert probe.main([str(plan), "-o", str(tmp_path / "missing" / "m.json"), "--seconds", "0.01"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["measured.json"]
    (tmp_path / "link").symlink_to("/dev/null")
    assert probe.main([str(plan), "-o", str(tmp_path / "link"), "--seconds", "0.01"]) == 0
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link").is_symlink()


def test_the_probe_needs_numpy_and_onnxruntime_only() -> None:
    tree = ast.parse(Path(probe.__file__).read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
    assert modules - sys.stdlib_module_names == {"numpy", "onnxruntime"}
