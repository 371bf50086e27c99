"""The probe measures what a loop of one network takes, says what it cannot, and continues where it was cut off.

A fake machine with caches and a clock of its own stands in for a real one, so no test depends on speed.
"""

import ast
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.devices import probe
from service.devices.probe import (
    Journal,
    Loaded,
    Measured,
    Model,
    Plan,
    ProbeError,
    Runtime,
    correct,
    make_runtime,
    measure,
    run_plan,
)
from supernet.export.probe_plan import network_model, probe_plan, write_plan
from supernet.families import preset
from supernet.operators import block_key

SPACE = replace(preset("mbv3-digits"), name="tiny", resolutions=(8,), depths=((1,), (1,), (1,)))
HOT_RUNS = 3  # until a network runs at its full speed on the fake machine


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.zip"
    write_plan(path, SPACE, probe_plan(SPACE, np.random.default_rng(0), 3))
    return path


class FakeRuntime(Runtime):
    """A machine where a model takes a microsecond a byte once it is hot, and up to twice that after another has run.

    drift: by which it slows down with each millisecond. disturb: called with the number of the run, gives more ms.
    """

    name, version = "fake", "1"

    def __init__(self, drift: float = 0.0, disturb: Callable[[int], float] = lambda run: 0.0) -> None:
        super().__init__(1, "")
        self.now = 0.0  # ms
        self.loads = 0
        self._drift, self._disturb = drift, disturb
        self._hot: tuple[object, int] = (None, 0)
        self._runs = 0

    def clock(self) -> int:
        return round(self.now * 1e6)

    def load(self, model: bytes, batch_size: int, shape: probe.Shape | None = None) -> Loaded:
        self.loads += 1
        me = object()

        def run() -> None:
            runs = self._hot[1] if self._hot[0] is me else 0
            self._hot = me, runs + 1
            self._runs += 1
            cold = max(0.0, 1 - runs / HOT_RUNS)
            self.now += len(model) / 1000 * (1 + cold) * (1 + self._drift * self.now) + self._disturb(self._runs)

        return Loaded(run, lambda: np.zeros(1))


def models(**sizes: int) -> list[Model]:
    return [Model(name, lambda size=size: b"x" * size) for name, size in sizes.items()]  # type: ignore[misc]


REFERENCES = {model.name: model for model in models(small=100, large=1000)}


def on(machine: FakeRuntime, listed: list[Model], **options: Any) -> Measured:
    return measure(listed, REFERENCES, machine, clock=machine.clock, **options)


@pytest.mark.parametrize(
    "company",
    [{}, {"tiny": 2}, {f"huge{i}": 9_000 for i in range(8)}, {"tiny": 2, "middle": 700, "huge": 20_000}],
    ids=["alone", "with a tiny one", "among huge ones", "in a mixture"],
)
def test_a_latency_does_not_depend_on_the_company(company: dict[str, int]) -> None:
    measured = on(FakeRuntime(), models(one=400, **company), samples=5)
    assert measured.in_ms()["one"] == pytest.approx(0.4, rel=1e-3)
    assert measured.models[0].spread < 1e-3


def test_drift_cancels() -> None:
    measured = on(FakeRuntime(drift=2e-4), models(short=30, long=3000))
    found = {model.name: model for model in measured.models}
    assert found["long"].ratio / found["short"].ratio == pytest.approx(100, rel=0.01)
    assert found["long"].wall_ms > 3.1  # the plain median does not


def test_runs_that_another_program_interrupts_do_not_count() -> None:
    measured = on(FakeRuntime(disturb=lambda run: 5.0 if run % 3 == 0 else 0.0), models(one=400))
    assert measured.in_ms()["one"] == pytest.approx(0.4, rel=0.01)


def test_a_sample_whose_references_differ_is_taken_again() -> None:
    spell = range(2000, 2040)  # of runs that take 1 ms more
    machine = FakeRuntime(disturb=lambda run: 1.0 if run in spell else 0.0)
    measured = on(machine, models(one=400, two=90))
    assert 0 < measured.repeated <= 10
    assert measured.in_ms() == pytest.approx({"one": 0.4, "two": 0.09}, rel=0.01)


def test_references_are_compared_all_the_time() -> None:
    """Not at the start alone, when another program may run: no model here is measured against the small one."""
    start = range(200)  # of runs that take 1 ms more
    measured = on(FakeRuntime(disturb=lambda run: 1.0 if run in start else 0.0), models(one=900))
    assert measured.references["small"].samples > probe.SAMPLES
    assert measured.in_ms()["one"] == pytest.approx(0.9, rel=1e-3)
    assert measured.reference_ms == pytest.approx(math.sqrt(0.1 * 1.0), rel=1e-3)


def test_busy_is_what_others_hold_of_the_processors_that_are_needed() -> None:
    def busy(threads: int, cores: int, used: float, held: float | None) -> float:
        return probe._busy(threads, cores, 10.0, used, held)

    assert busy(threads=1, cores=2, used=10, held=20) == 0  # another program had the other core
    assert busy(threads=1, cores=2, used=5, held=20) == pytest.approx(0.5)
    assert busy(threads=2, cores=2, used=16, held=20) == pytest.approx(0.2)
    assert busy(threads=2, cores=2, used=12, held=12) == 0  # threads that wait for each other hold no processor
    assert busy(threads=1, cores=2, used=7, held=None) == pytest.approx(0.3)
    assert busy(threads=2, cores=2, used=15, held=None) == 0


def test_a_system_that_shows_no_work_of_these_cores_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {1_000_000}, raising=False)
    assert probe._processor_seconds() is None


def test_latencies_are_on_the_scale_of_the_references() -> None:
    measured = on(FakeRuntime(), models(one=400))
    assert measured.reference_ms == pytest.approx(math.sqrt(0.1 * 1.0), rel=1e-3)
    assert measured.in_ms(1.0)["one"] == pytest.approx(0.4 / measured.reference_ms, rel=1e-3)
    assert {name: round(one.ms, 3) for name, one in measured.references.items()} == {"small": 0.1, "large": 1.0}


@pytest.mark.parametrize("keep", [True, False])
def test_little_time_still_gives_five_samples_and_progress_ends_at_the_total(
    monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    seen: list[tuple[int, int]] = []
    machine, listed = FakeRuntime(), [Model("a", lambda: b"xx", 2)]
    if not keep:
        monkeypatch.setattr(probe, "KEEP_BYTES", 1)
    measured = on(machine, listed, seconds=1e-9, progress=lambda *step: seen.append(step))
    assert measured.models[0].samples == probe.FEWEST_SAMPLES
    assert machine.loads == len(REFERENCES) + 1
    assert seen[-1] == (probe.SAMPLES, probe.SAMPLES)
    assert all(0 < done <= total for done, total in seen)
    if not keep:
        machine = FakeRuntime()
        assert on(machine, listed).models[0].samples == probe.SAMPLES
        assert machine.loads == len(REFERENCES) + probe.SAMPLES / probe.SAMPLES_PER_LOAD


class CutError(Exception):
    """What ends a probe half-way."""


def test_a_probe_that_was_cut_off_continues_where_it_was(tmp_path: Path) -> None:
    path, listed = tmp_path / "journal", models(one=400, two=90, three=7)

    def cut(done: int, total: int) -> None:
        if done == 50:
            raise CutError

    with pytest.raises(CutError):
        on(FakeRuntime(), listed, journal=Journal(path, {"plan": "p"}), progress=cut)
    with path.open("a") as file:
        file.write('{"model": "one", "m')  # cut within a line
    first: list[int] = []
    journal = Journal(path, {"plan": "p"})
    faster = FakeRuntime(drift=-1e-5)  # and the machine has another speed now
    measured = on(faster, listed, journal=journal, progress=lambda done, total: first.append(done))
    assert first[0] == 51
    assert [model.samples for model in measured.models] == [probe.SAMPLES] * 3
    alone = [sample for sample in journal.samples if (sample.model, sample.reference, sample.run) == ("", "small", 1)]
    assert len(alone) == probe.FEWEST_SAMPLES + probe.SAMPLES - 50 // 3  # none for visits that were complete
    assert measured.in_ms()["one"] == pytest.approx(0.4, rel=0.03)
    again = Journal(path, {"plan": "p"})
    assert (again.run, again.samples) == (2, journal.samples)
    with pytest.raises(ProbeError, match="journal of another run: its plan is p, this run's is q"):
        Journal(path, {"plan": "q"})
    path.write_text("{}\n")
    with pytest.raises(ProbeError, match=r"not a journal of this probe: .* Delete it"):
        Journal(path)


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
    assert result["status"] == "partial"
    assert result["runtime"]["provider"] == "CPUExecutionProvider"
    assert result["host"]["runtime"].startswith("onnxruntime ")
    assert result["clock"]["resolution_ns"] > 0
    assert seen[-1][0] == seen[-1][1]


def test_a_plan_is_cut_down_to_its_first_networks(plan: Path) -> None:
    whole, cut = Plan(plan), Plan(plan, 1)
    assert len(cut.models) == len(whole.models) - 2
    result = run_plan(plan, most=1, samples=1)
    assert (len(result["networks"]), result["status"]) == (1, "partial")
    with pytest.raises(ProbeError, match="most is 0"):
        run_plan(plan, most=0)


@pytest.mark.slow
def test_a_second_run_measures_the_checks_on_the_scale_of_the_first(tmp_path: Path) -> None:
    listed = [model for model in probe_plan(SPACE, np.random.default_rng(0), 2, 3) if model.kind == "network"]
    write_plan(tmp_path / "plan.zip", SPACE, listed)
    result = run_plan(tmp_path / "plan.zip", samples=5)
    assert (len(result["networks"]), len(result["checks"])) == (2, 3)
    checked = {json.dumps(one["architecture"]) for one in result["checks"]}
    assert not checked & {json.dumps(one["architecture"]) for one in result["networks"]}
    for one in result["checks"]:
        assert one["ms"] == pytest.approx(one["ratio"] * result["reference_ms"])
    assert set(result["measurements"]).isdisjoint(model.name for model in listed if model.details.get("check"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak memory")
@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    space = preset("mbv3-cifar")
    network = network_model(space, space.largest())
    write_plan(tmp_path / "plan.zip", space, [network])
    seen: list[tuple[int, int]] = []
    result = run_plan(tmp_path / "plan.zip", samples=1, memory=True, progress=lambda *done: seen.append(done))
    (measured,) = result["networks"]
    assert len(network.onnx()) < measured["memory_bytes"] < 50 * len(network.onnx())
    assert result["measurements"][network.name]["memory_bytes"] == measured["memory_bytes"]
    assert seen[-1] == (1, 1)  # after measuring, so that a claim is renewed while memory is measured


def test_energy_is_read_where_the_system_counts_it(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "RAPL", tmp_path)
    monkeypatch.setattr(probe, "ENERGY_SECONDS", 0.0001)
    for name, microjoules in (("intel-rapl:0", "2000000"), ("intel-rapl:0:0", "7"), ("intel-rapl:1", "3000000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(microjoules)
    assert probe._energy() == 5.0
    result = run_plan(plan, samples=1, most=1)
    assert result["networks"][0]["joules"] == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert run_plan(plan, samples=1, most=1)["networks"][0]["joules"] is None


def test_the_host_is_the_same_every_time() -> None:
    assert probe.fingerprint() == probe.fingerprint()
    assert probe.fingerprint()["processor"]


def test_a_model_that_does_not_load_is_named() -> None:
    good = network_model(SPACE, SPACE.largest()).onnx()
    references = {"reference": Model("reference", lambda: good)}
    with pytest.raises(ProbeError, match="candidate-7 does not run in onnxruntime"):
        measure([Model("good", lambda: good), Model("candidate-7", lambda: good[:100])], references, make_runtime())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": -1}, "batch size is -1"),
        ({"samples": 0}, "samples 0"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": math.inf}, "seconds is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        measure([], REFERENCES, FakeRuntime(), **settings)


def _damaged(plan: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "nowhere.zip", "no plan at"
    (folder / "text.zip").write_text("not a zip")
    yield folder / "text.zip", "not a plan"
    with zipfile.ZipFile(plan) as file:
        good = json.loads(file.read("plan.json"))
    lost = {"name": "m", "kind": "block", "file": "lost.onnx", "shape": [1, 1, 1]}
    for name, change, message in (
        ("empty", None, "not a plan"),
        ("format", {"format": 1}, "format 1; this probe reads format 2"),
        ("file", {"models": [lost]}, "lost.onnx"),
        ("list", {"models": 3}, "not a plan"),
        ("nothing", {"models": []}, "holds no models"),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
            if change is not None:
                for reference in good["references"]:
                    file.writestr(reference["file"], b"")
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
    few = ["--seconds", "0.01", "--samples", "2"]
    assert probe.main([str(plan), "-o", str(output), *few]) == 0
    assert json.loads(output.read_text())["space"] == "tiny"
    assert probe.main([str(tmp_path / "nowhere.zip"), "-o", str(tmp_path / "other.json")]) == 2
    assert "no plan at" in capsys.readouterr().err
    assert probe.main([str(plan), "-o", str(tmp_path / "missing" / "m.json"), *few]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["measured.json"]
    (tmp_path / "link").symlink_to("/dev/null")
    assert probe.main([str(plan), "-o", str(tmp_path / "link"), *few]) == 0
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link").is_symlink()


def test_the_probe_needs_numpy_and_a_runtime_only() -> None:
    tree = ast.parse(Path(probe.__file__).read_text(), feature_version=(3, 8))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
    at_the_top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    runtimes = {"onnxruntime", "openvino", "ncnn", "torch", "onnx2torch", "onnx"}
    assert modules - sys.stdlib_module_names == {"numpy", *runtimes}
    assert not at_the_top & runtimes
