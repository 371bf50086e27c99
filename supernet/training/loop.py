"""The training loop: `train` takes the steps; what a step does follows below it, in order."""

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from supernet.data import Dataset
from supernet.families import supernet_class
from supernet.networks.noise import training_noise
from supernet.networks.supernet import Supernet
from supernet.space import Architecture, SearchSpace
from supernet.streams import Stream, random_generator
from supernet.training import distributed
from supernet.training.batches import Batches
from supernet.training.memory import keep_freed_memory, peak_bytes, reset_peak
from supernet.training.sampling import FixedSampler, Sampler, make_sampler
from supernet.training.schedule import Phase, Schedule

T = TypeVar("T")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(ValueError):
    """Training cannot go on. The message says where it stopped and what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step. loss: the mean over the step's subnets.

    images_per_second: forward and backward passes of all processes; an image counts once per subnet.
    """

    phase: str
    epoch: int
    step: int
    total_steps: int
    loss: float
    images_per_second: float


@dataclass
class TrainingState:
    """Everything that a checkpoint holds, and what does not change during a run.

    phase, step: what comes next, both from 0; at step 0 the phase has not been started.
    architecture: train this subnet alone, whatever the phases' samplers are; None trains what the samplers draw.
    start: names the trained weights that the run started from; empty if these were random.
    ema: the average of the weights, by name. checkpoint: where this state, or an earlier one, was last saved.
    """

    supernet: Supernet
    schedule: Schedule
    scaler: torch.amp.GradScaler
    architecture: Architecture | None = None
    start: str = ""
    teacher: nn.Module | None = None
    optimiser: torch.optim.Optimizer | None = None
    ema: dict[str, Tensor] | None = None
    phase: int = 0
    step: int = 0
    dataset_hash: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Path | None = None

    @classmethod
    def fresh(cls, space: SearchSpace, schedule: Schedule, device: torch.device | str = "cpu") -> "TrainingState":
        """A state with random weights from the schedule's seed, the same on every device."""
        generator = torch.Generator().manual_seed(schedule.seed)
        supernet = supernet_class(space.family)(space, generator).to(device, memory_format=torch.channels_last)
        scaler = torch.amp.GradScaler(torch.device(device).type, enabled=schedule.precision == "fp16")
        return cls(supernet, schedule, scaler)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.supernet.parameters()).device

    def averaged(self) -> Supernet:
        """The supernet with averaged weights if the schedule has an `ema`; else the supernet itself."""
        if self.ema is None:
            return self.supernet
        averaged = copy.deepcopy(self.supernet)
        averaged.load_state_dict(self.ema, strict=False)  # running statistics stay as they are
        return averaged

    def fresh_teacher(self) -> nn.Module:
        """A frozen copy of the largest network."""
        largest = self.supernet.space.largest()
        return self.averaged().extract(largest).to(memory_format=torch.channels_last).requires_grad_(False)

    def fresh_optimiser(self) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, or AdamW. Only the weights of convolutions and linear layers decay."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.supernet.named_parameters():
            is_weight = parameter.ndim == 4 or (parameter.ndim == 2 and name.endswith("weight"))
            (decayed if is_weight else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        if self.schedule.optimiser == "adamw":
            return torch.optim.AdamW(groups, lr=0.0, betas=self.schedule.betas)
        return torch.optim.SGD(groups, lr=0.0, momentum=self.schedule.momentum, nesterov=True)


def train(state: TrainingState, dataset: Dataset, *, workers: int = 0) -> Iterator[Progress]:
    """Train from where `state` stands to the end of the schedule; yields after every optimiser step.

    At a yield the state is complete and may be saved. All randomness is a function of (seed, phase, step), so a run
    resumed from a checkpoint sees the same batches and subnets as an uninterrupted run. Under torchrun every process
    calls this with an equal state: all draw the same subnets, and each takes its share of the batch.

    workers: child processes that decode images ahead, if images are files; per training process.

    Raises:
        TrainingError: the loss is not finite; the weights are then as they were before that step.
        ValueError: the schedule does not fit the space, the dataset or the number of processes, or an image cannot be
            decoded.
    """
    schedule, device = state.schedule, state.device
    steps_per_epoch = len(dataset.train) // schedule.batch_size
    _check_batches(schedule, len(dataset.train))
    _check_dataset(state, dataset)
    phase_steps = [phase.epochs * steps_per_epoch for phase in schedule.phases]
    samplers = [_sampler(state, number, steps) for number, steps in enumerate(phase_steps)]
    _check_teacher(state)
    keep_freed_memory()

    while state.phase < len(schedule.phases):
        phase, steps, sampler = schedule.phases[state.phase], phase_steps[state.phase], samplers[state.phase]
        steps_before = sum(phase_steps[: state.phase])
        if state.step == 0:
            start_phase(state, phase)
        reset_peak(device)
        batches = Batches(dataset.train, schedule, state.phase, distributed.rank(), distributed.world())
        loader = batches.steps(state.step, steps, workers, pinned=device.type == "cuda")
        started = time.perf_counter()
        for step, batch in zip(range(state.step, steps), loader, strict=True):
            # The step's subnets and its images, augmented and resized to the subnets' resolution.
            archs = sampler.draw(step)
            images = dataset.normalization(batches.augmented(batch, device), archs[0].resolution)
            images = images.contiguous(memory_format=torch.channels_last)

            # Forward and backward of every subnet, then one optimiser step.
            loss = _backward(state, phase, archs, images, batch.labels.to(device))
            _update(state, phase, archs, loss, learning_rate=phase.rate(step, steps_per_epoch))

            # Curves and progress.
            epoch, position = divmod(step, steps_per_epoch)
            num_images, seconds = schedule.batch_size * len(archs), time.perf_counter() - started
            progress = Progress(
                phase.name,
                epoch + 1,
                steps_before + step + 1,
                sum(phase_steps),
                loss / len(archs),
                num_images / seconds,
            )
            _record(state, progress, num_images, seconds, epoch_ended=position + 1 == steps_per_epoch)

            # The state moves on to the next step, or to the next phase.
            state.step = step + 1
            if state.step == steps:
                state.phase, state.step = state.phase + 1, 0
                distributed.average_statistics(state.supernet)
            yield progress
            started = time.perf_counter()


def start_phase(state: TrainingState, phase: Phase) -> None:
    """Prepare a phase before its first step: teacher, channel order, a fresh optimiser and a fresh average."""
    space, schedule = state.supernet.space, state.schedule
    if state.phase == 1 and state.teacher is None and any(later.distillation for later in schedule.phases):
        state.teacher = state.fresh_teacher()
    if phase.sort_channels:
        past = [space.open_choices(**earlier.open) for earlier in schedule.phases[: state.phase]]
        if state.start:
            past.append(space.open_choices())  # all choices were trained before the run
        genes = range(space.num_genes)
        state.supernet.sort_channels([sorted({index for choices in past for index in choices[gene]}) for gene in genes])
    state.optimiser = state.fresh_optimiser()
    if schedule.ema is not None:
        state.ema = {name: parameter.detach().clone() for name, parameter in state.supernet.named_parameters()}


def subnet_losses(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], images: Tensor, labels: Tensor, part: int = 0
) -> Iterator[Tensor]:
    """Yield the loss of each subnet on a micro-batch, one after another, so that one graph is in memory at a time.

    images: (N, C, R, R), normalised; labels: (N,), or (N, classes) shares. part: the number of the micro-batch among
    those of all processes.
    """
    supernet, schedule = state.supernet.train(), state.schedule
    soft_labels = None
    if phase.distillation and state.teacher is not None:
        with torch.no_grad(), _forward_context(schedule, images.device):
            soft_labels = F.softmax(state.teacher.train()(images).float(), dim=1)
    for number, arch in enumerate(archs):
        regularised = number == 0 or phase.sampler != "sandwich"
        noise = _noise(state, images.device, part, number) if regularised else nullcontext()
        with _forward_context(schedule, images.device), noise:
            logits = supernet(images, arch).float()
        if phase.sampler == "sandwich" and soft_labels is not None:
            yield F.cross_entropy(logits, soft_labels)
            continue
        loss = F.cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
        if phase.sampler == "sandwich":  # in-place distillation: the other subnets learn from the largest alone
            soft_labels = F.softmax(logits.detach(), dim=1)
        elif soft_labels is not None:
            loss = loss + phase.distillation * F.cross_entropy(logits, soft_labels)
        yield loss


def _backward(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], images: Tensor, labels: Tensor
) -> float:
    """Sum the gradients of all subnets over micro-batches and processes. Returns the sum of the subnets' losses.

    images: (N, C, R, R) this process's share of the batch, normalised; labels: (N,).
    """
    supernet, optimiser, scaler = state.supernet, state.optimiser, state.scaler
    assert optimiser is not None
    optimiser.zero_grad(set_to_none=True)
    pieces = _pieces(state.schedule)
    micro_batches = pieces // distributed.world()  # of this process
    total_loss = torch.zeros((), device=images.device)
    shares = zip(images.chunk(micro_batches), labels.chunk(micro_batches), strict=True)
    first_part = distributed.rank() * micro_batches
    for part, share in enumerate(_with_equal_statistics(supernet, shares, micro_batches), first_part):
        micro_batch = state.schedule.augmentation.mix(*share, supernet.space.classes, _seed(state, Stream.MIXING, part))
        for loss in subnet_losses(state, phase, archs, *micro_batch, part):
            scaler.scale(loss / pieces).backward()
            total_loss += loss.detach() / pieces
    gradients = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
    distributed.sum_over_processes([*gradients, total_loss])  # the same parameters have gradients on every process
    return float(total_loss)


def _update(
    state: TrainingState, phase: Phase, archs: tuple[Architecture, ...], loss: float, *, learning_rate: float
) -> None:
    """Clip the gradients and step the optimiser and the average of the weights.

    Raises:
        TrainingError: the loss or the gradient is not finite. The weights stay as they are.
    """
    supernet, optimiser, scaler = state.supernet, state.optimiser, state.scaler
    assert optimiser is not None
    grad_clip = state.schedule.clip or math.inf
    scaler.unscale_(optimiser)
    grad_norm = float(nn.utils.clip_grad_norm_(supernet.parameters(), grad_clip))
    overflow = scaler.is_enabled() and scaler.get_scale() >= 1  # fp16 only: the scaler skips this step
    if not (math.isfinite(loss) and (math.isfinite(grad_norm) or overflow)):
        subnets = "; ".join(json.dumps(arch.to_json()) for arch in archs)
        saved = f"the last good checkpoint is {state.checkpoint}" if state.checkpoint else "no checkpoint was saved yet"
        raise TrainingError(
            f"the loss is {loss} and its gradient's norm {grad_norm} in phase {phase.name}, step {state.step}, "
            f"learning rate {learning_rate:.3g}; the weights are unchanged since the step before, and {saved}. Lower "
            f"learning_rate or set clip. Subnets of the step: {subnets}"
        )
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    scaler.step(optimiser)
    scaler.update()
    if state.ema is not None:
        _update_ema(state)


def _sampler(state: TrainingState, phase: int, steps: int) -> Sampler:
    if state.architecture is not None:
        return FixedSampler(state.architecture)
    return make_sampler(state.supernet.space, state.schedule, phase, steps)


def _check_batches(schedule: Schedule, num_images: int) -> None:
    """Refuse batches larger than the dataset, or that processes and micro-batches cannot share equally."""
    if schedule.batch_size > num_images:
        raise ValueError(f"batch_size is {schedule.batch_size}; there are only {num_images} training images")
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


def _check_dataset(state: TrainingState, dataset: Dataset) -> None:
    """Refuse to resume on other images than the run was started on."""
    dataset_hash = dataset.hash
    if state.dataset_hash not in ("", dataset_hash):
        raise TrainingError(
            f"the run was started on other images: their hash was {state.dataset_hash[:16]}, but the hash of "
            f"{dataset.name} with {len(dataset.holdout)} held out is {dataset_hash[:16]}. Resume with the dataset "
            "and the holdout that started it, or train into another folder"
        )
    state.dataset_hash = dataset_hash


def _check_teacher(state: TrainingState) -> None:
    """Refuse a teacher that is not there yet, or some of whose weights the first phase does not train."""
    space, schedule = state.supernet.space, state.schedule
    first = schedule.phases[0]
    if first.distillation and state.teacher is None:
        raise ValueError(
            f"phase {first.name} cannot distil: its result is the teacher. Set distillation: 0, or start from a bundle "
            "for the same classes and channels, whose largest network is the teacher"
        )
    student = next((phase for phase in schedule.phases if phase.distillation), None)
    open_choices = space.open_choices(**first.open)
    for gene, indices in list(zip(space.genes, open_choices, strict=True))[1:]:  # all resolutions share weights
        if student is not None and not state.start and indices[-1] != len(gene.choices) - 1:
            raise ValueError(
                f"phase {student.name}: the teacher, the last choice of every gene as phase {first.name} leaves it, "
                f"would have untrained weights, since that phase does not open {gene.choices[-1]} of {gene.name}. "
                f"Open it in phase {first.name}, or leave distillation out"
            )


def _pieces(schedule: Schedule) -> int:
    """The number of parts of a batch that have batch statistics of their own: at least one per process."""
    return max(schedule.micro_batches, distributed.world())


@contextmanager
def _forward_context(schedule: Schedule, device: torch.device) -> Iterator[None]:
    """Precision and synchronised batch norm, as the schedule sets them for forward passes."""
    synchronised = distributed.SynchronisedBatchNorm() if schedule.sync_batch_norm else nullcontext()
    dtype = AUTOCAST.get(schedule.precision)
    with synchronised, torch.autocast(device.type, dtype, enabled=dtype is not None):
        yield


def _noise(state: TrainingState, device: torch.device, part: int, subnet: int) -> AbstractContextManager[None]:
    """Dropout and stochastic depth, as the schedule sets them, for a forward pass of a step."""
    schedule = state.schedule
    if not (schedule.dropout or schedule.stochastic_depth):
        return nullcontext()
    seed = _seed(state, Stream.DROPOUT, part, subnet)
    return training_noise(schedule.dropout, schedule.stochastic_depth, seed, device)


def _seed(state: TrainingState, stream: Stream, *position: int) -> int:
    """A seed that follows from the schedule's, the phase and the step."""
    generator = random_generator(state.schedule.seed, stream, state.phase, state.step, *position)
    return int(generator.integers(2**62))


def _with_equal_statistics(supernet: Supernet, parts: Iterable[T], count: int) -> Iterator[T]:
    """Yield each part with the running statistics of the start; afterwards these become the mean over all parts.

    So micro-batches leave the same statistics as equally many processes.
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
def _update_ema(state: TrainingState) -> None:
    """Update the average of the weights. The decay starts low, since early weights change fast."""
    assert state.ema is not None
    assert state.schedule.ema is not None
    decay = min(state.schedule.ema, (1 + state.step) / (10 + state.step))
    names, parameters = zip(*state.supernet.named_parameters(), strict=True)
    get_ema_multi_avg_fn(decay)([state.ema[name] for name in names], list(parameters), None)


def _record(state: TrainingState, progress: Progress, num_images: int, seconds: float, *, epoch_ended: bool) -> None:
    """Update the epoch's row of the curves: mean loss, images per second, the phase's peak memory so far."""
    curve = state.curves[-1] if state.curves else None
    if curve is None or (curve["phase"], curve["epoch"]) != (progress.phase, progress.epoch):
        curve = {"phase": progress.phase, "epoch": progress.epoch, "loss": 0.0, "steps": 0, "images": 0, "seconds": 0.0}
        state.curves.append(curve)
    curve["steps"] += 1
    curve["loss"] += (progress.loss - curve["loss"]) / curve["steps"]
    curve["images"] += num_images
    curve["seconds"] += seconds
    curve["images_per_second"] = round(curve["images"] / curve["seconds"], 1)
    curve["peak_memory_bytes"] = peak_bytes(state.device)
    if epoch_ended:
        curve["loss"] = round(curve["loss"], 5)
