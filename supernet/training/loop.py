"""The training loop."""

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from supernet.data import Dataset
from supernet.families import supernet_class
from supernet.networks.supernet import Supernet
from supernet.space import Architecture, SearchSpace
from supernet.training import distributed
from supernet.training.batches import Batches
from supernet.training.memory import keep_freed_memory, peak_bytes, reset_peak
from supernet.training.sampling import make_sampler
from supernet.training.schedule import Phase, Schedule

T = TypeVar("T")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(ValueError):
    """Training cannot go on: the message says where it stopped and what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step. loss: the mean over the step's subnets.

    images_per_second: forward and backward, of all processes together; an image counts once for every subnet.
    """

    phase: str
    epoch: int
    step: int
    total_steps: int
    loss: float
    images_per_second: float


@dataclass
class TrainingState:
    """Everything that a checkpoint holds. `phase` and `step` are what comes next; step 0 is a phase not yet entered.

    ema: the average of the weights, by name. checkpoint: where this state, or an earlier one, was saved last.
    """

    supernet: Supernet
    schedule: Schedule
    scaler: torch.amp.GradScaler
    teacher: nn.Module | None = None
    optimiser: torch.optim.SGD | None = None
    ema: dict[str, Tensor] | None = None
    phase: int = 0
    step: int = 0
    dataset_hash: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Path | None = None

    @classmethod
    def fresh(cls, space: SearchSpace, schedule: Schedule, device: torch.device | str = "cpu") -> "TrainingState":
        """Random weights from the schedule's seed, the same on every device."""
        generator = torch.Generator().manual_seed(schedule.seed)
        supernet = supernet_class(space.family)(space, generator).to(device, memory_format=torch.channels_last)
        scaler = torch.amp.GradScaler(torch.device(device).type, enabled=schedule.precision == "fp16")
        return cls(supernet, schedule, scaler)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.supernet.parameters()).device

    def averaged(self) -> Supernet:
        """The supernet with the average of its weights, where the schedule asks for one; else the supernet itself."""
        if self.ema is None:
            return self.supernet
        averaged = copy.deepcopy(self.supernet)
        averaged.load_state_dict(self.ema, strict=False)  # running statistics stay as they are
        return averaged

    def fresh_teacher(self) -> nn.Module:
        """A frozen copy of the largest network."""
        largest = self.supernet.space.largest()
        return self.averaged().extract(largest).to(memory_format=torch.channels_last).requires_grad_(False)

    def fresh_optimiser(self) -> torch.optim.SGD:
        """SGD with Nesterov momentum; weight decay on the weights of convolutions and linear layers alone."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.supernet.named_parameters():
            is_weight = parameter.ndim == 4 or (parameter.ndim == 2 and name.endswith("weight"))
            (decayed if is_weight else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=0.0, momentum=self.schedule.momentum, nesterov=True)


def train(state: TrainingState, dataset: Dataset, *, workers: int = 0) -> Iterator[Progress]:
    """Train from where `state` stands to the end of the schedule; yields after every optimiser step.

    Between two yields the state is whole and may be saved. All randomness is a function of (seed, phase, step), so a
    run resumed from any checkpoint goes through the same batches and subnets as one that was never interrupted. Each of
    torchrun's processes runs this with an equal state: all draw the same subnets and each takes its share of the batch.

    workers: processes of each process that decode images ahead, where they are files.

    Raises:
        TrainingError: the loss is not finite; the weights are then as they were before that step.
        ValueError: the schedule does not fit the space, the dataset or the number of processes, or an image cannot be
            decoded.
    """
    schedule, space = state.schedule, state.supernet.space
    steps_per_epoch = len(dataset.train) // schedule.batch_size
    if not steps_per_epoch:
        raise ValueError(f"batch_size is {schedule.batch_size}; there are only {len(dataset.train)} training images")
    _check_shares(schedule)
    dataset_hash = dataset.hash
    if state.dataset_hash not in ("", dataset_hash):
        raise TrainingError(
            f"the run was started on other images: their hash was {state.dataset_hash[:16]}, that of {dataset.name} "
            f"with {len(dataset.holdout)} held out is {dataset_hash[:16]}. Resume with the dataset, holdout and cache "
            "that started it, or train into another folder"
        )
    state.dataset_hash = dataset_hash
    totals = [phase.epochs * steps_per_epoch for phase in schedule.phases]
    samplers = [make_sampler(space, schedule, number, steps) for number, steps in enumerate(totals)]
    _check_teacher(space, schedule)
    pinned = state.device.type == "cuda"
    keep_freed_memory()
    while state.phase < len(schedule.phases):
        phase, total = schedule.phases[state.phase], totals[state.phase]
        if state.step == 0:
            start_phase(state, phase)
        reset_peak(state.device)
        done = sum(totals[: state.phase])
        batches = Batches(dataset.train, schedule, state.phase, distributed.rank(), distributed.world())
        started = time.perf_counter()
        for step, batch in zip(
            range(state.step, total), batches.steps(state.step, total, workers, pinned), strict=True
        ):
            archs = samplers[state.phase].draw(step)
            epoch, position = divmod(step, steps_per_epoch)
            pixels = dataset.normalization(batches.augmented(batch, state.device), archs[0].resolution)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            loss = _optimise(
                state, phase, archs, pixels, batch.labels.to(state.device), phase.rate(step, steps_per_epoch)
            )
            images, seconds = schedule.batch_size * len(archs), time.perf_counter() - started
            progress = Progress(phase.name, epoch + 1, done + step + 1, sum(totals), loss, images / seconds)
            _record(state, progress, images, seconds, epoch_ended=position + 1 == steps_per_epoch)
            state.step = step + 1
            if state.step == total:
                state.phase, state.step = state.phase + 1, 0
                distributed.average_statistics(state.supernet)
            yield progress
            started = time.perf_counter()


def _check_shares(schedule: Schedule) -> None:
    """Refuse batches that processes and micro-batches cannot share equally."""
    world, pieces = distributed.world(), _pieces(schedule)
    if pieces % world:
        raise ValueError(
            f"micro_batches is {schedule.micro_batches}, and {world} processes cannot share them equally; make it a "
            f"multiple of {world}"
        )
    if schedule.batch_size % pieces or schedule.batch_size < 2 * pieces:
        raise ValueError(
            f"batch_size is {schedule.batch_size}, to be split into {pieces} equal parts of at least 2 images, one for "
            f"each process and micro-batch; make it a multiple of {pieces}"
        )


def _check_teacher(space: SearchSpace, schedule: Schedule) -> None:
    """Refuse to distil from a network of which the first phase leaves weights as they were drawn."""
    first = schedule.phases[0]
    student = next((phase for phase in schedule.phases if phase.distillation), None)
    opened = space.open_choices(**first.open)
    for gene, indices in list(zip(space.genes, opened, strict=True))[1:]:  # all resolutions have the same weights
        if student is not None and indices[-1] != len(gene.choices) - 1:
            raise ValueError(
                f"phase {student.name}: the teacher, the last choice of every gene as phase {first.name} leaves it, "
                f"would have untrained weights, since that phase does not open {gene.choices[-1]} of {gene.name}. "
                f"Open it in phase {first.name}, or leave distillation out"
            )


def _pieces(schedule: Schedule) -> int:
    """How many parts, each with batch statistics of its own, a batch has: at least one for every process."""
    return max(schedule.micro_batches, distributed.world())


def start_phase(state: TrainingState, phase: Phase) -> None:
    """What happens once, before the first step of a phase: teacher, channel sort, a fresh optimiser and average."""
    if state.phase == 1 and any(later.distillation for later in state.schedule.phases):
        state.teacher = state.fresh_teacher()
    if phase.sort_channels:
        past = [state.supernet.space.open_choices(**phase.open) for phase in state.schedule.phases[: state.phase]]
        genes = range(state.supernet.space.num_genes)
        state.supernet.sort_channels([sorted({index for opened in past for index in opened[gene]}) for gene in genes])
    state.optimiser = state.fresh_optimiser()
    if state.schedule.ema is not None:
        state.ema = {name: parameter.detach().clone() for name, parameter in state.supernet.named_parameters()}


def _optimise(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], pixels: Tensor, labels: Tensor, rate: float
) -> float:
    """Sum the gradients of all subnets, micro-batches and processes, then one optimiser step. Returns the mean loss.

    pixels: (N, C, R, R) this process's share of the batch, normalised; labels: (N,).
    """
    supernet, optimiser, scaler = state.supernet, state.optimiser, state.scaler
    assert optimiser is not None
    optimiser.zero_grad(set_to_none=True)
    pieces = _pieces(state.schedule)
    own = pieces // distributed.world()
    total = torch.zeros((), device=pixels.device)
    for shared in _from_equal_statistics(supernet, zip(pixels.chunk(own), labels.chunk(own), strict=True), own):
        for loss in subnet_losses(state, phase, archs, *shared):
            scaler.scale(loss / pieces).backward()
            total += loss.detach() / pieces
    gradients = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
    distributed.sum_over_processes([*gradients, total])  # equal subnets have equal parameters, on every process
    scaler.unscale_(optimiser)
    norm = float(nn.utils.clip_grad_norm_(supernet.parameters(), state.schedule.clip or math.inf))
    overflow = scaler.is_enabled() and scaler.get_scale() >= 1  # of fp16 alone: the scaler leaves this step out
    if not (math.isfinite(total) and (math.isfinite(norm) or overflow)):
        names = "; ".join(json.dumps(arch.to_json()) for arch in archs)
        saved = f"the last good checkpoint is {state.checkpoint}" if state.checkpoint else "no checkpoint was saved yet"
        raise TrainingError(
            f"the loss is {float(total)} and its gradient's norm {norm} in phase {phase.name}, step {state.step}, "
            f"learning rate {rate:.3g}; the weights are unchanged since the step before, and {saved}. Lower "
            f"learning_rate or set clip. Subnets of the step: {names}"
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    scaler.step(optimiser)
    scaler.update()
    if state.ema is not None:
        _average(state)
    return float(total) / len(archs)


def subnet_losses(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], pixels: Tensor, labels: Tensor
) -> Iterator[Tensor]:
    """The loss of each subnet on a micro-batch, one after another: each is done with before the next is computed."""
    supernet, schedule = state.supernet.train(), state.schedule
    soft_labels = None
    if phase.distillation and state.teacher is not None:
        with torch.no_grad(), _arithmetic(schedule, pixels.device):
            soft_labels = F.softmax(state.teacher.train()(pixels).float(), dim=1)
    for arch in archs:
        with _arithmetic(schedule, pixels.device):
            logits = supernet(pixels, arch).float()
        if phase.sampler == "sandwich" and soft_labels is not None:
            yield F.cross_entropy(logits, soft_labels)
            continue
        loss = F.cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
        if phase.sampler == "sandwich":  # in-place distillation: the others learn from the largest alone
            soft_labels = F.softmax(logits.detach(), dim=1)
        elif soft_labels is not None:
            loss = loss + phase.distillation * F.cross_entropy(logits, soft_labels)
        yield loss


@contextmanager
def _arithmetic(schedule: Schedule, device: torch.device) -> Iterator[None]:
    """The precision and the batch statistics of forward passes."""
    synchronised = distributed.SynchronisedBatchNorm() if schedule.sync_batch_norm else nullcontext()
    dtype = AUTOCAST.get(schedule.precision)
    with synchronised, torch.autocast(device.type, dtype, enabled=dtype is not None):
        yield


def _from_equal_statistics(supernet: Supernet, parts: Iterable[T], count: int) -> Iterator[T]:
    """Yield each part; each moves the running statistics from where they were at first, and their mean is kept.

    So that micro-batches leave the statistics that as many processes would.
    """
    if count == 1:
        yield from parts
        return
    statistics = distributed.running_statistics(supernet)
    first = [tensor.clone() for tensor in statistics]
    mean = [torch.zeros_like(tensor) for tensor in statistics]
    for part in parts:
        for tensor, value in zip(statistics, first, strict=True):
            tensor.copy_(value)
        yield part
        for tensor, value in zip(mean, statistics, strict=True):
            tensor += value / count
    for tensor, value in zip(statistics, mean, strict=True):
        tensor.copy_(value)


@torch.no_grad()
def _average(state: TrainingState) -> None:
    """Move the average of the weights; its first steps weigh more, as it begins with weights that move fast."""
    assert state.ema is not None
    assert state.schedule.ema is not None
    decay = min(state.schedule.ema, (1 + state.step) / (10 + state.step))
    names, parameters = zip(*state.supernet.named_parameters(), strict=True)
    get_ema_multi_avg_fn(decay)([state.ema[name] for name in names], list(parameters), None)


def _record(state: TrainingState, progress: Progress, images: int, seconds: float, *, epoch_ended: bool) -> None:
    """Keep one line a phase and epoch: the mean loss, images per second, the phase's peak memory so far."""
    curve = state.curves[-1] if state.curves else None
    if curve is None or (curve["phase"], curve["epoch"]) != (progress.phase, progress.epoch):
        curve = {"phase": progress.phase, "epoch": progress.epoch, "loss": 0.0, "steps": 0, "images": 0, "seconds": 0.0}
        state.curves.append(curve)
    curve["steps"] += 1
    curve["loss"] += (progress.loss - curve["loss"]) / curve["steps"]
    curve["images"] += images
    curve["seconds"] += seconds
    curve["images_per_second"] = round(curve["images"] / curve["seconds"], 1)
    curve["peak_memory_bytes"] = peak_bytes(state.device)
    if epoch_ended:
        curve["loss"] = round(curve["loss"], 5)
