"""`supple train --dry-run`: what a run would do, and how long it would take, after a few real steps. Writes no run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from service.bundles.config import LARGEST_HOLDOUT, TrainingConfig, load_data
from service.bundles.tracking import check_trackers
from service.bundles.train import Step, start_of
from supernet.data import Dataset, check_images
from supernet.evaluation.evaluate import Evaluator, perturbed
from supernet.training import distributed
from supernet.training.loop import TrainingState, train
from supernet.training.sampling import make_sampler

TIMED_STEPS = 4  # at each place of a phase, after one step that is not timed


@dataclass(frozen=True, slots=True)
class PhaseForecast:
    """A phase. subnets: of a step. seconds_per_step, peak_memory_bytes: as measured in a few steps."""

    name: str
    epochs: int
    steps: int
    subnets: int
    seconds_per_step: float
    peak_memory_bytes: int

    @property
    def seconds(self) -> float:
        """The time that the phase takes, at this speed."""
        return self.steps * self.seconds_per_step


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do. subnets: to measure after training; start: as `start_of` tells it, or None."""

    phases: tuple[PhaseForecast, ...]
    subnets: int
    seconds_per_subnet: float
    start: dict[str, Any] | None

    @property
    def seconds(self) -> float:
        """The time that the whole run takes, at these speeds, without decoding images once and writing."""
        return sum(phase.seconds for phase in self.phases) + self.subnets * self.seconds_per_subnet


def dry_run(
    config: TrainingConfig,
    *,
    data_root: Path,
    show_dataset: Callable[[Dataset], None] = lambda dataset: None,
    show_forecast: Callable[[Forecast], None] = lambda forecast: None,
) -> Iterator[Step]:
    """Check all images, take a few steps of every phase and measure two subnets. Yields progress.

    The results of the check are cached in `data_root`, for the run. Nothing else is written.

    show_dataset, show_forecast: called with what was found.

    Raises:
        ValueError: what `train_bundle` refuses before and at the first steps of its phases.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = distributed.choose_device(config.device)
    check_trackers(config.log)
    for done, total in check_images(config.dataset.source, data_root):
        yield Step("check images", done, total)
    dataset, space = load_data(config, data_root)
    show_dataset(dataset)
    state = TrainingState.fresh(space, config.schedule, device)
    start = start_of(config, state, dataset)
    phases = []
    for number, phase in enumerate(config.schedule.phases):
        phases.append(_forecast(state, dataset, number, config.dataset.workers))
        yield Step("a few steps", number + 1, len(config.schedule.phases), phase.name)
    seconds_per_subnet = _seconds_per_subnet(config, state, dataset)
    yield Step("two subnets", 1, 1)
    show_forecast(Forecast(tuple(phases), config.evaluation.subnets, seconds_per_subnet, start))


def _forecast(state: TrainingState, dataset: Dataset, number: int, workers: int) -> PhaseForecast:
    """Take a few steps of a phase at each of its growing resolutions, each for an equal share of the steps."""
    schedule = state.schedule
    phase = schedule.phases[number]
    steps = phase.epochs * (len(dataset.train) // schedule.batch_size)
    shares = max(1, len(phase.growing))
    seconds, peaks = [], []
    for first in sorted({-(-share * steps // shares) for share in range(shares)}):
        state.phase, state.step, state.curves = number, first, []
        times = [time.perf_counter()]
        for _ in islice(train(state, dataset, workers=workers), min(1 + TIMED_STEPS, steps - first)):
            times.append(time.perf_counter())
        seconds.append((times[-1] - times[1]) / (len(times) - 2) if len(times) > 2 else times[1] - times[0])
        peaks.append(state.curves[-1]["peak_memory_bytes"])
    subnets = make_sampler(state.supernet.space, schedule, number, steps).subnets
    return PhaseForecast(phase.name, phase.epochs, steps, subnets, sum(seconds) / len(seconds), max(peaks))


def _seconds_per_subnet(config: TrainingConfig, state: TrainingState, dataset: Dataset) -> float:
    """The mean time to extract, recalibrate and score the largest and the smallest subnet."""
    calibration = dataset.train[: config.evaluation.calibration_images]
    holdout = perturbed(dataset.holdout[:LARGEST_HOLDOUT], config.evaluation.views)
    evaluator = Evaluator(state.supernet, dataset.normalization, calibration, holdout)
    space = state.supernet.space
    started = time.perf_counter()
    for arch in (space.largest(), space.smallest()):
        evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
    return (time.perf_counter() - started) / 2
