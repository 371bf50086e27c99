"""The training loop and its checkpoints."""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.data import Dataset
from supernet.families import supernet_class
from supernet.files import sha256, write_atomically
from supernet.layers import Supernet
from supernet.sampling import SAMPLERS, Sampler
from supernet.schedule import Phase, Schedule
from supernet.space import Architecture, SearchSpace

log = logging.getLogger("supple.train")
KEPT_CHECKPOINTS = 2


class TrainingError(ValueError):
    """Training cannot go on: the message says where it stopped and what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step. loss: the mean over the step's subnets."""

    phase: str
    epoch: int
    step: int
    total_steps: int
    loss: float
    images_per_second: float


@dataclass
class TrainingState:
    """Everything that a checkpoint holds. `phase` and `step` are what comes next; step 0 is a phase not yet entered."""

    supernet: Supernet
    schedule: Schedule
    teacher: nn.Module | None = None
    optimiser: torch.optim.SGD | None = None
    phase: int = 0
    step: int = 0
    dataset_hash: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, space: SearchSpace, schedule: Schedule) -> "TrainingState":
        """Random weights from the schedule's seed."""
        generator = torch.Generator().manual_seed(schedule.seed)
        supernet = supernet_class(space.family)(space, generator).to(memory_format=torch.channels_last)
        return cls(supernet, schedule)


def train(state: TrainingState, dataset: Dataset) -> Iterator[Progress]:
    """Train from where `state` stands to the end of the schedule; yields after every optimiser step.

    Between two yields the state is whole and may be saved. All randomness is a function of (seed, phase, step), so a
    run resumed from any checkpoint goes through the same batches and subnets as one that was never interrupted.

    Raises:
        TrainingError: the loss is not finite; the weights are then as they were before that step.
        ValueError: the schedule does not fit the space or the dataset.
    """
    schedule, space = state.schedule, state.supernet.space
    steps_per_epoch = len(dataset.train) // schedule.batch_size
    if not steps_per_epoch:
        raise ValueError(f"batch_size is {schedule.batch_size}; there are only {len(dataset.train)} training images")
    dataset_hash = dataset.hash
    if state.dataset_hash not in ("", dataset_hash):
        raise TrainingError(
            f"the run was started on other images: their hash was {state.dataset_hash[:16]}, that of {dataset.name} "
            f"with {len(dataset.holdout)} held out is {dataset_hash[:16]}. Resume with the dataset and holdout that "
            "started it, or train into another folder"
        )
    state.dataset_hash = dataset_hash
    samplers = [_sampler(space, schedule, number) for number in range(len(schedule.phases))]
    order = lru_cache(maxsize=1)(partial(_order, schedule.seed, len(dataset.train)))
    totals = [phase.epochs * steps_per_epoch for phase in schedule.phases]
    while state.phase < len(schedule.phases):
        phase = schedule.phases[state.phase]
        if state.step == 0:
            _enter(state, phase)
        done = sum(totals[: state.phase])
        for step in range(state.step, totals[state.phase]):
            started = time.perf_counter()
            archs = samplers[state.phase].draw(step)
            epoch, position = divmod(step, steps_per_epoch)
            chosen = order(state.phase, epoch)[position * schedule.batch_size :][: schedule.batch_size]
            pixels, labels = _batch(dataset, schedule, state.phase, step, chosen, archs[0].resolution)
            loss = _optimise(state, phase, archs, pixels, labels, phase.rate(step, steps_per_epoch))
            seconds = time.perf_counter() - started
            progress = Progress(
                phase.name,
                epoch + 1,
                done + step + 1,
                sum(totals),
                loss,
                len(labels) * len(archs) / seconds,
            )
            _record(state, progress, position + 1 == steps_per_epoch)
            state.step = step + 1
            if state.step == totals[state.phase]:
                state.phase, state.step = state.phase + 1, 0
            yield progress


def _sampler(space: SearchSpace, schedule: Schedule, number: int) -> Sampler:
    phase = schedule.phases[number]
    try:
        open_choices = space.open_choices(**phase.open)
        resolutions = schedule.resolutions or tuple(int(space.resolutions[index]) for index in open_choices[0])
        subnets = phase.subnets_per_step
        if phase.sampler == "uniform" and subnets is None:
            subnets = 1
        return SAMPLERS[phase.sampler](space, open_choices, resolutions, subnets, [schedule.seed, 2, number])
    except ValueError as error:
        raise ValueError(f"phase {phase.name}: {error}") from error


def _enter(state: TrainingState, phase: Phase) -> None:
    """What happens once, before the first step of a phase: the teacher, the channel sort, a fresh optimiser."""
    if state.phase == 1:
        state.teacher = state.supernet.extract(state.supernet.space.largest())
    if phase.sort_channels:
        past = [state.supernet.space.open_choices(**phase.open) for phase in state.schedule.phases[: state.phase]]
        genes = range(state.supernet.space.num_genes)
        state.supernet.sort_channels([sorted({index for opened in past for index in opened[gene]}) for gene in genes])
    state.optimiser = _fresh_optimiser(state)


def _fresh_optimiser(state: TrainingState) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on the weights of convolutions and linear layers alone."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in state.supernet.named_parameters():
        is_weight = parameter.ndim == 4 or (parameter.ndim == 2 and name.endswith("weight"))
        (decayed if is_weight else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": state.schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=state.schedule.momentum, nesterov=True)


def _order(seed: int, count: int, phase: int, epoch: int) -> Tensor:
    """(count,) the order in which an epoch goes through the training images."""
    return torch.from_numpy(np.random.default_rng([seed, 3, phase, epoch]).permutation(count))


def _batch(
    dataset: Dataset, schedule: Schedule, phase: int, step: int, chosen: Tensor, resolution: int
) -> tuple[Tensor, Tensor]:
    """The augmented images (N, C, resolution, resolution) and labels (N,) of a step. chosen: (N,) which images."""
    images = dataset.train[chosen]
    draw = int(np.random.default_rng([schedule.seed, 4, phase, step]).integers(2**62))
    pixels = schedule.augmentation(images.pixels, torch.Generator().manual_seed(draw))
    pixels = dataset.normalization(pixels, resolution)
    return pixels.contiguous(memory_format=torch.channels_last), images.labels


def _optimise(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], pixels: Tensor, labels: Tensor, rate: float
) -> float:
    """Sum the gradients of all subnets, then one optimiser step. Returns the mean loss."""
    supernet, optimiser, smoothing = state.supernet.train(), state.optimiser, state.schedule.label_smoothing
    assert optimiser is not None
    soft_labels = None
    if phase.distillation and state.teacher is not None:
        with torch.no_grad():
            soft_labels = F.softmax(state.teacher.train()(pixels), dim=1)
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    for arch in archs:
        logits = supernet(pixels, arch)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if soft_labels is not None:
            loss = loss + phase.distillation * F.cross_entropy(logits, soft_labels)
        loss.backward()
        total += loss.item()
    norm = float(nn.utils.clip_grad_norm_(supernet.parameters(), state.schedule.clip or math.inf))
    if not (math.isfinite(total) and math.isfinite(norm)):
        names = "; ".join(json.dumps(arch.to_json()) for arch in archs)
        raise TrainingError(
            f"the loss is {total} and its gradient's norm {norm} in phase {phase.name}, step {state.step}, learning "
            f"rate {rate:.3g}; the weights are unchanged since the step before. Lower learning_rate or set clip. "
            f"Subnets of the step: {names}"
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return total / len(archs)


def _record(state: TrainingState, progress: Progress, epoch_ended: bool) -> None:
    """Keep one line a phase and epoch: the mean loss."""
    curve = state.curves[-1] if state.curves else None
    if curve is None or (curve["phase"], curve["epoch"]) != (progress.phase, progress.epoch):
        curve = {"phase": progress.phase, "epoch": progress.epoch, "loss": 0.0, "steps": 0}
        state.curves.append(curve)
    curve["steps"] += 1
    curve["loss"] += (progress.loss - curve["loss"]) / curve["steps"]
    if epoch_ended:
        curve["loss"] = round(curve["loss"], 5)


# Checkpoints: NUMBER.safetensors with every tensor, then NUMBER.json, which names its hash. A pair without the second
# file, or whose hash differs, was cut short and is passed over.


def save_checkpoint(state: TrainingState, folder: Path) -> Path:
    """Write a checkpoint atomically and drop all but the newest two.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier checkpoints stay as they were.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"supernet.{name}": value for name, value in state.supernet.state_dict().items()}
    if state.teacher is not None:
        tensors |= {f"teacher.{name}": value for name, value in state.teacher.state_dict().items()}
    if state.optimiser is not None:
        for name, parameter in state.supernet.named_parameters():
            if "momentum_buffer" in (kept := state.optimiser.state.get(parameter, {})):
                tensors[f"momentum.{name}"] = kept["momentum_buffer"]
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    number = max((int(path.stem) for path in folder.glob("[0-9]*.safetensors")), default=0) + 1
    path = folder / f"{number:08}.safetensors"
    position = {
        "schedule_hash": state.schedule.hash,
        "space_hash": state.supernet.space.hash,
        "phase": state.phase,
        "step": state.step,
        "dataset_hash": state.dataset_hash,
        "curves": state.curves,
    }
    try:
        write_atomically(path, save({name: value.contiguous() for name, value in tensors.items()}))
        write_atomically(path.with_suffix(".json"), json.dumps({"sha256": sha256(path), **position}).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    oldest = sorted(folder.glob("[0-9]*.json"))[-KEPT_CHECKPOINTS:][0].stem
    for old in (*folder.glob("[0-9]*.json"), *folder.glob("[0-9]*.safetensors")):
        if old.stem < oldest:
            old.unlink()
    return path


def load_checkpoint(folder: Path, space: SearchSpace, schedule: Schedule) -> TrainingState | None:
    """The state of the newest intact checkpoint in a folder; None when none was ever finished there.

    Raises:
        TrainingError: the checkpoint is of another schedule or space, or every finished one is damaged.
    """
    from safetensors.torch import load_file

    damaged = []
    for path in sorted((path.with_suffix(".safetensors") for path in folder.glob("[0-9]*.json")), reverse=True):
        try:
            position = json.loads(path.with_suffix(".json").read_text())
            intact = position["sha256"] == sha256(path)
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            damaged.append(str(path))
            log.warning("checkpoint %s is damaged: it is not what was written; looking for an older one", path)
            continue
        if (position["schedule_hash"], position["space_hash"]) != (schedule.hash, space.hash):
            raise TrainingError(
                f"{path} belongs to another schedule or space than this configuration's. Resume with the configuration "
                "that started it, or train into another folder"
            )
        return _restore(load_file(path), position, space, schedule)
    if damaged:
        raise TrainingError(
            f"every checkpoint is damaged: {', '.join(damaged)}. Restore one of them, or delete the folder"
        )
    return None


def _restore(
    tensors: dict[str, Tensor], position: dict[str, Any], space: SearchSpace, schedule: Schedule
) -> TrainingState:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    state = TrainingState.fresh(space, schedule)
    state.supernet.load_state_dict(under("supernet."))
    state.phase, state.step, state.curves = position["phase"], position["step"], position["curves"]
    state.dataset_hash = position["dataset_hash"]
    if teacher := under("teacher."):
        state.teacher = state.supernet.extract(space.largest())
        state.teacher.load_state_dict(teacher)
    if momentum := under("momentum."):
        state.optimiser = _fresh_optimiser(state)
        for name, parameter in state.supernet.named_parameters():
            if name in momentum:
                state.optimiser.state[parameter]["momentum_buffer"] = momentum[name]
    return state
