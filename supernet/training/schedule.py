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
SamplerName = Literal["uniform", "flops_range", "strict_fair", "sandwich", "path_dropout"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of training.

    open: per gene name (`depth`, `kernel_size`, `expand_ratio`, ...) the values it may take; a name left out is fully
    open. learning_rate: peak, reached after `warmup_epochs`, then a cosine to zero. sampler: which subnets a step sees;
    `training.sampling` describes each. flops: least and most multiply-adds, for `flops_range`. drop_rate: at the end of
    the phase, for `path_dropout`. subnets_per_step: gradients of so many subnets are summed before the optimiser steps;
    None leaves it to the sampler. distillation: weight of the soft cross-entropy to the teacher, the last choice of
    every gene as the first phase left it, which must open all of these. sort_channels: order channels by importance
    before the phase starts. growing: input sides, pixels, from small to large, each for an equal share of the steps,
    whatever `resolutions` says (progressive learning, arXiv:2104.00298, section 4.2, without its growing
    regularisation); early epochs then take a fraction of the time.
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
        _check_sides(where + "growing", self.growing)
        if list(self.growing) != sorted(set(self.growing)):
            raise ValueError(f"{where}growing is {list(self.growing)}; give sides from small to large, each once")
        if self.growing and "resolution" in self.open:
            raise ValueError(f"{where}growing and an open resolution contradict each other; keep one of them")
        if self.growing and self.sampler == "flops_range":
            raise ValueError(f"{where}growing changes what `flops` counts; take another sampler or leave growing out")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step of this phase: linear warm-up, then a cosine to zero."""
        warmup, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * min(1.0, (step + 1) / warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _check_sides(where: str, sides: tuple[int, ...]) -> None:
    for side in sides:
        if side < 4 or side % 4:
            raise ValueError(f"{where} has {side}; multiples of 4 from 4 upwards are needed")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a supernet is trained. Everything random follows from `seed`.

    resolutions: input sides drawn per batch; None takes the space's. clip: largest gradient norm, None for no limit.
    ema: decay per step of an average of the weights, begun anew in each phase, which is what the bundle and the teacher
    get. precision: of the arithmetic; weights stay fp32. On a CPU bf16 pays where there are instructions for it
    (avx512_bf16 or amx_bf16). micro_batches: into how many equal parts, each with batch statistics of its own, a batch
    is split to take less memory; torchrun's processes share them. sync_batch_norm: take batch statistics over all of
    torchrun's processes.
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
        if self.clip is not None:
            require("clip", self.clip, 1e-9)
        if self.ema is not None:
            require("ema", self.ema, 0, below=1)
        require("micro_batches", self.micro_batches, 1, self.batch_size // 2)
        _check_sides("resolutions", self.resolutions or ())
        if self.resolutions and any("resolution" in phase.open for phase in self.phases):
            raise ValueError("resolutions and a phase's open resolution contradict each other; keep one of them")
        if self.phases[0].distillation:
            raise ValueError(
                f"phase {self.phases[0].name} cannot distil: its result is the teacher. Set distillation: 0"
            )

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name this schedule; a checkpoint of another one is refused.

        What is at its default does not count, so that checkpoints outlive new options; a default must never change.
        """
        return hashlib.sha256(json.dumps(_chosen(self), sort_keys=True).encode()).hexdigest()


def _chosen(value: Any) -> Any:
    """As JSON, a configuration without what is at its default."""
    if isinstance(value, tuple):
        return [_chosen(each) for each in value]
    if not is_dataclass(value):
        return value
    given = ((option, getattr(value, option.name)) for option in fields(value))
    return {option.name: _chosen(each) for option, each in given if each != _default(option)}


def _default(option: "Field[Any]") -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
