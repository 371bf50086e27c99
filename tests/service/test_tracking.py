"""Trackers of training: one contract for all, with MLflow and Weights & Biases only where they are installed."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.bundles import tracking
from service.bundles.config import DatasetConfig, EvaluationConfig, TrainingConfig
from service.bundles.tracking import TrackedRun, TrackerName, check_trackers, open_trackers
from service.bundles.train import finished_bundle, train_bundle
from service.errors import InputError
from supernet.training.schedule import Phase, Schedule
from tests.support.waiting import wait

pytestmark = pytest.mark.slow  # it trains, or loads large packages

Scalars = dict[tuple[str, int], float]


def read_tensorboard(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}


def read_mlflow(folder: Path) -> Scalars:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = json.loads((folder / tracking.RUNS).read_text())["mlflow"]
    names = client.get_run(run).data.metrics
    assert client.get_run(run).data.params["dataset.holdout"] == "5"
    return {(name, row.step): row.value for name in names for row in client.get_metric_history(run, name)}


def read_wandb(folder: Path) -> Scalars:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Scalars = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for content in log_records(path.read_bytes()):
            items = Record.FromString(content).history.item
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            found |= {(name, values["_step"]): value for name, value in values.items() if not name.startswith("_")}
    return found


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, of fragments (CRC, length, type, content)."""
    place, parts = 7, b""  # after the file's own header
    while place + 7 <= len(data):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<4xHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


READERS: dict[TrackerName, Callable[[Path], Scalars]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
}


@pytest.fixture(params=READERS)
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackerName:
    """A tracker that is installed, which writes below `tmp_path` and sends nothing."""
    name: TrackerName = request.param
    if name != "tensorboard" and find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_tracker_notes_scalars_and_goes_on_where_a_resumed_run_does(tracker: TrackerName, tmp_path: Path) -> None:
    run = TrackedRun((tracker,), tmp_path / "run", "mine", {"name": "mine", "dataset": {"holdout": 5}})
    run.folder.mkdir()
    with open_trackers(run, 0) as trackers:
        trackers.scalars({"train/loss": 2.5, "train/images_per_second": 100.0}, 10)
    with open_trackers(run, 10) as trackers:
        trackers.scalars({"train/loss": 1.5}, 20)
    noted = {("train/loss", 10): 2.5, ("train/images_per_second", 10): 100.0, ("train/loss", 20): 1.5}
    wait(lambda: READERS[tracker](run.folder) == noted, f"{noted} in {tracker}")  # another process may write it


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else SimpleNamespace())
    check_trackers(["tensorboard", "mlflow"])
    with pytest.raises(InputError, match="log names wandb, which is not installed; run `pip install wandb`"):
        check_trackers(["wandb"])


class Fake:
    """A tracker in memory, which fails at its second call if it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.noted: list[tuple[dict[str, float], int]] = []
        self.ended: list[bool] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if self.fails and self.noted:
            raise ConnectionError("no network")
        self.noted.append((dict(values), step))

    def close(self, *, failed: bool) -> None:
        self.ended.append(failed)


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing, good = Fake(fails=True), Fake()
    monkeypatch.setattr(tracking, "TRACKERS", {"mlflow": lambda *_: failing, "wandb": lambda *_: good})
    with open_trackers(TrackedRun(("mlflow", "wandb"), tmp_path, "x", {}), 0) as trackers:
        for step in range(4):
            trackers.scalars({"a": 1.0}, step)
    assert (len(failing.noted), len(good.noted)) == (1, 4)
    assert (failing.ended, good.ended) == ([], [False])
    assert caplog.text.count("mlflow fails") == 1


def test_one_that_cannot_be_opened_stops_the_run_and_closes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Fake:
        raise ConnectionError("no network")

    good = Fake()
    monkeypatch.setattr(tracking, "TRACKERS", {"mlflow": lambda *_: good, "wandb": refuse})
    with (
        pytest.raises(InputError, match="log names wandb, which cannot be opened: no network"),
        open_trackers(TrackedRun(("mlflow", "wandb"), tmp_path, "x", {}), 0),
    ):
        pass
    assert good.ended == [True]


def test_training_tells_steps_epochs_phases_and_the_result(tmp_path: Path) -> None:
    phases = (Phase("first", 2, 0.02, open={"depth": (1,)}), Phase("second", 1, 0.01))
    config = TrainingConfig(
        "x",
        "mbv3-digits",
        DatasetConfig("digits", holdout=1300),
        Schedule(phases, batch_size=12),
        EvaluationConfig(subnets=10, calibration_images=8, predictor="ridge"),
        device="cpu",
        log=("tensorboard",),
    )
    list(train_bundle(config, tmp_path, data_root=tmp_path))
    found = read_tensorboard(tmp_path)
    bundle = finished_bundle(replace(config, log=()), tmp_path)  # what is logged makes no other bundle
    assert bundle is not None
    curves = bundle.report["curves"]
    ends = [sum(row["steps"] for row in curves[: number + 1]) for number in range(3)]
    names = {name for name, _ in found}
    assert {"train/loss", "train/learning_rate", "epoch/peak_memory_bytes", "result/largest_test_accuracy"} <= names
    assert [step for name, step in found if name == "train/loss"] == list(range(10, ends[-1] + 1, 10))
    for row, end in zip(curves, ends, strict=True):
        assert found["epoch/loss", end] == pytest.approx(row["loss"], abs=1e-4)
    assert [step for name, step in found if name == "accuracy/largest"] == [ends[1], ends[2]]
    assert found["accuracy/largest", ends[2]] == pytest.approx(curves[2]["corners"]["largest"])
    assert found["result/largest_holdout_accuracy", ends[2]] == pytest.approx(
        bundle.report["corners"]["largest"]["holdout"]["accuracy"]
    )
