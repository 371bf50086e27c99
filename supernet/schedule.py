"""Progressive shrinking as data: phases that open more and more of the space (arXiv:1908.09791, section 3.3)."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from supernet.data import FORBID_EXTRA, Augmentation


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of training.

    open: per gene name (`depth`, `kernel_size`, `expand_ratio`, ...) the values it may take; a name left out is fully
    open. learning_rate: peak, reached after `warmup_epochs`, then a cosine to zero. subnets_per_step: gradients of so
    many subnets are summed before the optimiser steps; None leaves it to the sampler. distillation: weight of the soft
    cross-entropy to the teacher, the largest network as it was after the first phase. sort_channels: order channels by
    importance before the phase starts.
    """

    name: str
    epochs: int
    learning_rate: float
    open: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warmup_epochs: float = 0.0
    sampler: Literal["uniform", "strict_fair"] = "uniform"
    subnets_per_step: int | None = None
    distillation: float = 0.0
    sort_channels: bool = False

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"phase {self.name}: epochs is {self.epochs}; at least 1 is needed")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"phase {self.name}: learning_rate is {self.learning_rate}; a positive number is needed")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"phase {self.name}: warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step of this phase: linear warm-up, then a cosine to zero."""
        warmup, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a supernet is trained. Everything random follows from `seed`.

    resolutions: input sides drawn per batch; None takes the space's. clip: largest gradient norm, None for no limit.
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

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("a schedule needs at least one phase")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; batch norm needs at least 2 images")
        if self.phases[0].distillation:
            raise ValueError(
                f"phase {self.phases[0].name} cannot distil: its result is the teacher. Set distillation: 0"
            )

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name this schedule; a checkpoint of another one is refused."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
