"""The course of a training run in TensorBoard, MLflow or Weights & Biases, as `log` in a training file names them.

MLflow and Weights & Biases read their own environment variables, such as MLFLOW_TRACKING_URI and WANDB_MODE. A run that
is resumed goes on in the same run of theirs.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from service.errors import InputError
from supernet.files import write_atomically
from supernet.training.loop import Progress, TrainingState

log = logging.getLogger("supple.train")
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
RUNS = "tracking.json"  # in the folder of a run: the ids of the trackers' runs
EVERY = 10  # steps
PARAMETER_CHARACTERS = 250  # of a value, which all versions of MLflow take


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What trackers are told of a run: its name, its folder and the training file as JSON."""

    trackers: tuple[TrackerName, ...]
    folder: Path
    name: str
    config: Mapping[str, Any]


class Tracker(Protocol):
    """Where scalars go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Note values at a training step, counted from 1 over all phases."""

    def close(self, *, failed: bool) -> None:
        """Write what is not written yet. failed: whether the run broke off."""


class _TensorBoard:
    """Event files in `tensorboard/` in the folder of the run."""

    def __init__(self, run: TrackedRun, step: int, ids: dict[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that a resumed run starts from are taken again.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=step + 1 if step else None)
        self._writer.add_text("configuration", f"```json\n{json.dumps(run.config, indent=1)}\n```")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _MLflow:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, or in `supple`."""

    def __init__(self, run: TrackedRun, step: int, ids: dict[str, str]) -> None:
        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            mlflow.set_experiment("supple")
        started = mlflow.start_run(run_id=ids.get("mlflow"), run_name=None if "mlflow" in ids else run.name)
        if "mlflow" not in ids:
            settings = flattened(run.config)
            mlflow.log_params({key: str(value)[:PARAMETER_CHARACTERS] for key, value in settings.items()})
        ids["mlflow"] = started.info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


class _WeightsAndBiases:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names, or in `supple`."""

    def __init__(self, run: TrackedRun, step: int, ids: dict[str, str]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "supple")
        self._run = wandb.init(
            project=project,
            name=run.name,
            config=dict(run.config),
            dir=str(run.folder),
            id=ids.get("wandb"),
            resume="allow",
        )
        ids["wandb"] = self._run.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


Open = Callable[[TrackedRun, int, dict[str, str]], Tracker]
TRACKERS: dict[str, Open] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WeightsAndBiases}


class Trackers:
    """Several trackers as one. One that fails is left out from then on, with a warning: training goes on."""

    def __init__(self, opened: Mapping[str, Tracker]) -> None:
        self._opened = dict(opened)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Note values at a step everywhere."""
        self._each(lambda tracker: tracker.scalars(values, step))

    def close(self, *, failed: bool) -> None:
        """Close all."""
        self._each(lambda tracker: tracker.close(failed=failed))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._opened.items()]:
            try:
                call(tracker)
            except Exception as error:  # any: it is another program's, and no reason to lose a training run
                log.warning("%s fails and gets nothing more of this run: %s", name, error)
                del self._opened[name]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed, before any work.

    Raises:
        InputError: naming one.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"log names {name}, which is not installed; run `pip install {name}`, or take it out of log"
            )


@contextmanager
def open_trackers(run: TrackedRun, step: int) -> Iterator[Trackers]:
    """The trackers of a run, closed at the end. step: from which the run goes on; 0 for a new run.

    Raises:
        InputError: one cannot be opened.
    """
    path = run.folder / RUNS
    ids: dict[str, str] = json.loads(path.read_text()) if step and path.is_file() else {}
    opened: dict[str, Tracker] = {}
    for name in run.trackers:
        try:
            opened[name] = TRACKERS[name](run, step, ids)
        except Exception as error:
            Trackers(opened).close(failed=True)
            raise InputError(f"log names {name}, which cannot be opened: {error}") from error
    if ids:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(ids).encode())
    trackers = Trackers(opened)
    try:
        yield trackers
    except BaseException:
        trackers.close(failed=True)
        raise
    trackers.close(failed=False)


def tracked(steps: Iterable[Progress], state: TrainingState, run: TrackedRun) -> Iterator[Progress]:
    """Yield the steps of training. Every tenth, each epoch and the corner subnets of each phase go to trackers."""
    epochs = max(0, len(state.curves) - (state.step > 0))
    with open_trackers(run, steps_taken(state)) as trackers:
        for progress in steps:
            ended = len(state.curves) - (state.step > 0)  # rows of epochs, without the epoch that goes on
            for curve in state.curves[epochs:ended]:
                trackers.scalars(_of_epoch(curve), progress.step - (state.step > 0))
            epochs = ended
            if progress.step % EVERY == 0:
                trackers.scalars(_of_step(progress, state), progress.step)
            yield progress


def track_result(result: Mapping[str, float], state: TrainingState, run: TrackedRun) -> None:
    """Give the result of a finished run to the trackers that `tracked` gave its course."""
    step = steps_taken(state)
    with open_trackers(run, step) as trackers:
        trackers.scalars(result, step)


def steps_taken(state: TrainingState) -> int:
    """How many steps a run has taken, over all phases."""
    return sum(row["steps"] for row in state.curves)


def _of_step(progress: Progress, state: TrainingState) -> dict[str, float]:
    values = {"train/loss": progress.loss, "train/images_per_second": progress.images_per_second}
    if state.optimiser is not None:
        values["train/learning_rate"] = float(state.optimiser.param_groups[0]["lr"])
    return values


def _of_epoch(curve: Mapping[str, Any]) -> dict[str, float]:
    values = {f"epoch/{name}": float(curve[name]) for name in ("loss", "images_per_second", "peak_memory_bytes")}
    return values | {f"accuracy/{name}": float(value) for name, value in curve.get("corners", {}).items()}


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dots: `{"dataset": {"holdout": 5}}` as `{"dataset.holdout": 5}`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
