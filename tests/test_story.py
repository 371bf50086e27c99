"""The whole story at a smaller size: train, measure, register, serve, search, verify, download; and its accidents."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from service.bundles.config import read_config
from service.bundles.search import search_bundle
from service.bundles.train import finished_bundle
from service.cli.demo import CONFIG, run_demo
from supernet.bundle import Bundle
from supernet.export.parity import run_onnx
from tests.support.command_line import Ran

pytestmark = pytest.mark.slow  # it trains, or starts processes


def smaller_config(path: Path, epochs: dict[str, int], subnets: int) -> Path:
    """configs/digits.yaml with fewer epochs, pairs and perturbations."""
    data = yaml.safe_load(CONFIG.read_text())
    for phase in data["schedule"]["phases"]:
        phase["epochs"] = epochs[phase["name"]]
    data["evaluation"] |= {"subnets": subnets, "views": {"count": 2}}
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the demo ran once, and what it printed."""
    folder = tmp_path_factory.mktemp("story")
    config = smaller_config(folder / "digits.yaml", {"largest": 8, "kernel": 1, "depth": 1, "width": 6}, 48)
    text = io.StringIO()
    out = Console(file=text, width=200)
    run_demo(folder / "demo", 0, once=True, out=out, config=config, probe_seconds=2)
    return folder, text.getvalue()


@pytest.fixture(scope="module")
def bundle(story: tuple[Path, str]) -> Bundle:
    return Bundle.open(story[0] / "demo" / "train" / "bundle")


@pytest.fixture(scope="module")
def measurements(story: tuple[Path, str]) -> Path:
    return story[0] / "demo" / "measurements.json"


def shown(text: str, name: str) -> float:
    """The number that the demo printed behind a name."""
    found = re.search(rf"^{re.escape(name)} +([0-9.,]+)", text, re.MULTILINE)
    assert found, f"{name} is not in what was printed:\n{text}"
    return float(found[1].replace(",", ""))


def test_the_demo_prints_an_answer_inside_its_limits(story: tuple[Path, str]) -> None:
    text = story[1]
    request = json.loads(text.split("POST /v1/searches ")[1].split("\n")[0])
    assert shown(text, "FLOPs (multiply-adds)") <= request["max_flops"]
    assert shown(text, "measured latency") <= request["max_latency_ms"]
    assert shown(text, "predicted latency") <= request["max_latency_ms"]
    assert shown(text, "verified accuracy") > 0.85
    assert "resolution  " in text
    assert "stage 3 " in text
    right = re.search(r"(\d+) of 10 right", text)
    assert right
    assert int(right[1]) >= 8


def test_the_downloaded_file_says_what_it_is_and_runs_at_any_batch_size(
    story: tuple[Path, str], bundle: Bundle
) -> None:
    import onnx

    (path,) = (story[0] / "demo").glob("*.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert bundle.hash in metadata.values()
    assert json.loads(metadata["classes"]) == bundle.classes
    side = json.loads(metadata["architecture"])["resolution"]
    for count in (1, 5):
        logits = run_onnx(path.read_bytes(), np.zeros((count, 1, side, side), np.float32))
        assert logits.shape == (count, 10)


def test_inherited_accuracy_on_the_held_out_split(bundle: Bundle) -> None:
    corners = bundle.report["corners"]
    assert corners["largest"]["holdout"]["accuracy"] >= 0.94
    assert corners["smallest"]["holdout"]["accuracy"] >= 0.88


def test_the_predictor_ranks_subnets_it_was_not_fitted_on(bundle: Bundle) -> None:
    card = bundle.report["predictor"]
    assert card["pairs"] == 48
    assert card["kendall_tau"] > 0.3
    assert 0 < card["rmse"] < 0.05


def test_a_second_run_reuses_what_is_there_and_says_so(story: tuple[Path, str]) -> None:
    folder, first = story
    text = io.StringIO()
    out = Console(file=text, width=200)
    run_demo(folder / "demo", 0, once=True, out=out, config=folder / "digits.yaml", probe_seconds=2)
    assert "using the bundle of an earlier run" in text.getvalue()
    assert "using the measurements of an earlier run" in text.getvalue()
    assert "using the bundle" not in first
    assert shown(text.getvalue(), "parameters") > 0


def test_searching_offline_holds_every_limit_and_repeats_itself(bundle: Bundle, measurements: Path) -> None:
    limits = {"latency_ms": 0.2, "flops": 9e5, "params": 9e4}
    one, again = (search_bundle(bundle, limits, device=str(measurements), evaluations=2_000, seed=3) for _ in range(2))
    assert one["best"] == again["best"]
    assert one["best"]["predicted_latency_ms"][measurements.stem] <= limits.pop("latency_ms")
    assert all(one["best"][cost] <= most for cost, most in limits.items())


def test_search_describe_and_export_on_the_command_line(
    bundle: Bundle, measurements: Path, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    path = str(bundle.path)
    searched = run(
        "search", path, "--device", str(measurements), "--max-flops", "0.8M", "--evaluations", "500", "--json"
    )
    assert searched.code == 0, searched.stderr
    best = json.loads(searched.stdout)["best"]
    assert best["flops"] <= 800_000
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(best["arch"]))
    described = run("describe", path, "--arch", str(arch), "--json")
    assert json.loads(described.stdout)["flops"] == best["flops"]
    assert json.loads(described.stdout)["id"] == best["id"]
    exported = run("export", path, "--arch", str(arch), "-o", str(tmp_path / "net.onnx"))
    assert exported.code == 0, exported.stderr
    side = best["arch"]["resolution"]
    assert run_onnx((tmp_path / "net.onnx").read_bytes(), np.zeros((1, 1, side, side), np.float32)).shape == (1, 10)


TRAIN = """
import sys
from pathlib import Path
from service.bundles.config import read_config
from service.bundles.train import train_bundle

config, out = map(Path, sys.argv[1:])
for step in train_bundle(read_config(config), out, resume=True, data_root=out.parent, checkpoint_steps=5):
    print(step.stage, step.done, step.total, sep=":", flush=True)
"""


class Training:
    """A training run in a process of its own, and the lines it has printed: `stage:done:total`."""

    def __init__(self, config: Path, out: Path) -> None:
        self._log = out.with_suffix(".log")
        with open(self._log, "w") as file:
            self._process = subprocess.Popen([sys.executable, "-c", TRAIN, str(config), str(out)], stdout=file)

    def lines(self) -> list[list[str]]:
        return [line.split(":") for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def kill_once(self, happened: Callable[[], bool]) -> list[list[str]]:
        """Kill it as soon as something has happened; the lines printed until then."""
        while not happened():
            assert self._process.poll() is None, "the run ended first"
            time.sleep(0.002)
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL
        return self.lines()


def test_a_training_run_killed_at_every_stage_resumes_to_a_usable_bundle(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    config = smaller_config(tmp_path / "c.yaml", {"largest": 2, "kernel": 1, "depth": 1, "width": 1}, 10)
    out = tmp_path / "out"
    command = ["train", str(config), "-o", str(out), "--data-root", str(tmp_path)]

    Training(config, out).kill_once(lambda: bool(list(out.glob("checkpoints/*.json"))))
    again = run(*command)
    assert again.code == 2
    assert "holds an unfinished run; pass --resume" in again.stderr
    unregistered = run(*command, "--resume", "--register")
    assert unregistered.code == 1
    assert "run `supple db upgrade`" in unregistered.stderr
    assert not unregistered.stderr.startswith("train"), "it trained before it looked for the database"

    training = Training(config, out)
    lines = training.kill_once(lambda: any(stage == "measure subnets" for stage, *_ in training.lines()))
    stage, first, _ = lines[0]
    assert stage == "train"
    assert int(first) > 1, "training began anew"
    trained = [int(done) for stage, done, _ in lines if stage == "train"]
    assert trained == list(range(trained[0], int(lines[0][2]) + 1))

    training = Training(config, out)
    lines = training.kill_once(lambda: bool(list(out.glob(".bundle*")) or list(out.glob("bundle"))))
    assert {stage for stage, *_ in lines} <= {"measure subnets", "write the bundle"}, "training was not over"

    assert run("db", "upgrade").code == 0
    finished = run(*command, "--resume", "--register")
    assert finished.code == 0, finished.stderr
    assert re.search(r"supernet [0-9a-f]+ \(digits\) registered", finished.stdout)
    assert not list(out.glob("pairs.jsonl"))
    assert "is already the finished bundle of" in run(*command).stdout
    bundle = finished_bundle(read_config(config), out)
    assert bundle is not None
    assert search_bundle(bundle, {"flops": 1e6}, evaluations=200)["best"]["flops"] <= 1e6
    leftovers = [path for pattern in ("*.tmp", ".*", "*.old") for path in out.rglob(pattern)]
    assert not leftovers
