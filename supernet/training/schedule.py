"""Progressive shrinking as data: phases that open more and more of the space (arXiv:1908.09791, section 3.3)."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from supernet.checks import FORBID_EXTRA, require
from supernet.training.augmentation import Augmentation

Precision = Literal["fp32", "bf16", "fp16"]
OptimiserName = Literal["sgd", "adamw"]
SamplerName = Literal["uniform", "flops_range", "strict_fair", "sandwich", "path_dropout"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of training.

    learning_rate: the peak, reached after `warmup_epochs`; then a cosine to zero.
    open: per gene name (`depth`, `kernel_size`, `expand_ratio`, ...) the values it may take; all, if left out.
    sampler: which subnets a step trains; `training.sampling` describes each.
    flops: least and most multiply-adds of a subnet, for `flops_range`.
    drop_rate: the rate at the end of the phase, for `path_dropout`.
    subnets_per_step: the gradients of this many subnets are summed for one optimiser step; None takes the sampler's.
    distillation: weight of the cross-entropy to the soft labels of the teacher, which is the largest network as the
    first phase left it. The first phase must open the last choice of every gene. In a run that starts from the weights
    of a bundle for the same classes, the teacher of all phases is the largest network of the bundle.
    sort_channels: order channels by importance before the phase starts.
    growing: resolutions, pixels, from small to large, each for an equal share of the steps, in place of the schedule's
    `resolutions`. Early epochs then take a fraction of the time (progressive learning, arXiv:2104.00298, section 4.2,
    without its growing regularisation).
    """

    name: str
    epochs: int
    learning_rate: float
    open: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warmup_epochs: float = 0.0
    sampler: SamplerName = "uniform"
    flops: tuple[float, float] | None = None
    drop_rate: float | None = None
    subnets_per_step: int | None = None
    distillation: float = 0.0
    sort_channels: bool = False
    growing: tuple[int, ...] = ()

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        where = f"phase {self.name}: "
        require(where + "epochs", self.epochs, 1)
        require(where + "learning_rate", self.learning_rate, 1e-9)
        require(where + "warmup_epochs", self.warmup_epochs, 0, below=self.epochs)
        require(where + "distillation", self.distillation, 0)
        if self.subnets_per_step is not None:
            require(where + "subnets_per_step", self.subnets_per_step, 1)
        for sampler, option in (("flops_range", "flops"), ("path_dropout", "drop_rate")):
            if (self.sampler == sampler) != (getattr(self, option) is not None):
                raise ValueError(f"{where}sampler: {sampler} and {option} belong together; give both or neither")
        if self.flops is not None:
            require(where + "flops, the least,", self.flops[0], 0)
            require(where + "flops, the most,", self.flops[1], self.flops[0])
        if self.drop_rate is not None:
            require(where + "drop_rate", self.drop_rate, 0, 1)
        if self.sampler == "sandwich" and self.distillation:
            raise ValueError(f"{where}the sandwich rule has a teacher in the step itself; leave distillation out")
        _check_resolutions(where + "growing", self.growing)
        if list(self.growing) != sorted(set(self.growing)):
            raise ValueError(f"{where}growing is {list(self.growing)}; give resolutions from small to large, each once")
        if self.growing and "resolution" in self.open:
            raise ValueError(f"{where}growing and an open resolution contradict each other; keep one of them")
        if self.growing and self.sampler == "flops_range":
            raise ValueError(f"{where}growing changes what `flops` counts; take another sampler or leave growing out")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate at a step of this phase: linear warm-up, then a cosine to zero."""
        warmup, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * min(1.0, (step + 1) / warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _check_resolutions(name: str, resolutions: tuple[int, ...]) -> None:
    for resolution in resolutions:
        if resolution < 4 or resolution % 4:
            raise ValueError(f"{name} has {resolution}; multiples of 4 from 4 upwards are needed")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a supernet is trained. Everything random follows from `seed`.

    batch_size: images per step, over all processes.
    optimiser: SGD with Nesterov's momentum, or AdamW (arXiv:1711.05101). momentum: for SGD. betas: for AdamW.
    dropout: share of features dropped before the classifier. stochastic_depth: share of images for which a residual
    block is skipped (arXiv:1603.09382, with one rate for all blocks). Under the sandwich rule both apply to the largest
    subnet alone (BigNAS, arXiv:2003.11142, section 3.2).
    clip: clip the gradient to this norm; None does not clip.
    resolutions: a batch's resolution is drawn from these; None takes the space's.
    ema: decay per step of an average of the weights, which the bundle and the teacher get; a phase starts a new one.
    precision: of forward and backward passes; weights stay fp32. On a CPU bf16 pays if the processor has instructions
    for it (avx512_bf16 or amx_bf16).
    micro_batches: split a batch into this many equal parts to save memory. Each part has its own batch statistics.
    Under torchrun the processes share the parts.
    sync_batch_norm: compute batch statistics over all of torchrun's processes.
    """

    phases: tuple[Phase, ...]
    batch_size: int
    seed: int = 0
    momentum: float = 0.9
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    clip: float | None = None
    resolutions: tuple[int, ...] | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: float | None = None
    precision: Precision = "fp32"
    micro_batches: int = 1
    sync_batch_norm: bool = False
    optimiser: OptimiserName = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("a schedule needs at least one phase")
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} phases are called {name}; give each a name of its own")
        require("batch_size", self.batch_size, 2)  # batch norm needs two values
        require("seed", self.seed, 0)
        require("momentum", self.momentum, 0, below=1)
        require("weight_decay", self.weight_decay, 0)
        require("label_smoothing", self.label_smoothing, 0, below=1)
        require("dropout", self.dropout, 0, below=1)
        require("stochastic_depth", self.stochastic_depth, 0, below=1)
        for beta in self.betas:
            require("betas", beta, 0, below=1)
        if self.clip is not None:
            require("clip", self.clip, 1e-9)
        if self.ema is not None:
            require("ema", self.ema, 0, below=1)
        require("micro_batches", self.micro_batches, 1, self.batch_size // 2)
        _check_resolutions("resolutions", self.resolutions or ())
        if self.resolutions and any("resolution" in phase.open for phase in self.phases):
            raise ValueError("resolutions and a phase's open resolution contradict each other; keep one of them")

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name this schedule. A checkpoint of another schedule is refused.

        Options at their defaults do not enter, so that checkpoints stay valid when options are added. So a default must
        never change.
        """
        return hashlib.sha256(json.dumps(_without_defaults(self), sort_keys=True).encode()).hexdigest()


def _without_defaults(value: Any) -> Any:
    """A configuration as JSON, without the options that are at their defaults."""
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    if not is_dataclass(value):
        return value
    settings = ((option, getattr(value, option.name)) for option in fields(value))
    return {option.name: _without_defaults(setting) for option, setting in settings if setting != _default(option)}


def _default(option: "Field[Any]") -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
