"""Hard limits on costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.choices import Choices
from evolution.costs import DEVICE_COSTS, AdditiveCost, Cost, CostTables
from evolution.predictors.latency import LatencyModel

HOW_TO_MEASURE: Mapping[str, str] = {  # by cost that a device tells beside latency
    "device_memory_bytes": "measure it again with `supple probe --memory`, on Linux",
    "energy_mj": "measure it again where the probe can read the processor's energy counters (RAPL under "
    "/sys/class/powercap, which often only root may read)",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest allowed value of a cost, which is known by its name.

    cost: one of `DEVICE_COSTS`, which needs a device, or a counted cost of the tables, such as `flops`. max: in the
    cost's unit. confidence: limit the latency's upper bound at this confidence, in (0.5, 1), instead of the predicted
    latency.

    Raises:
        ValueError: `max` is not a positive number, or a device or a confidence is missing or out of place.
    """

    cost: str
    max: float
    device: str | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max) and self.max > 0):
            raise ValueError(f"the limit of {self.cost} is {self.max}; a positive number is needed")
        if (self.device is not None) != (self.cost in DEVICE_COSTS):
            raise ValueError(
                f"{self.cost} needs a device"
                if self.device is None
                else f"{self.cost} is the same on every device; leave device {self.device!r} out"
            )
        if self.confidence is not None and not (self.cost == "latency_ms" and 0.5 < self.confidence < 1):
            raise ValueError(
                f"the confidence of {self.cost} is {self.confidence}; only latency_ms takes one, between 0.5 and 1"
            )

    @property
    def name(self) -> str:
        """`flops`; of a latency `latency_ms@DEVICE`, and of its upper bound `latency_ms@DEVICE@0.9`."""
        return self.place if self.confidence is None else f"{self.place}@{self.confidence}"

    @property
    def place(self) -> str:
        """The cost and the device that it is on: `flops`, `latency_ms@DEVICE`."""
        return self.cost if self.device is None else f"{self.cost}@{self.device}"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A cost and its largest allowed value."""

    cost: Cost
    max: float


@dataclass(frozen=True, slots=True)
class SumConstraint:
    """An additive cost and its largest allowed value."""

    cost: AdditiveCost
    max: float


def cost_of(limit: Limit, tables: CostTables, latency: Mapping[str, LatencyModel]) -> Cost:
    """The limited cost. latency: the latency model of each device, by the device's name.

    Raises:
        ValueError: an unknown cost, a device without a model of the cost or with one whose error is too large, or a
            confidence that its measurements cannot support.
    """
    if limit.device is None:
        return tables.cost(limit.cost)
    if limit.device not in latency:
        devices = ", ".join(sorted(latency)) or "none"
        raise ValueError(f"device {limit.device!r} has no latency model; devices that have one: {devices}")
    model = latency[limit.device]
    if limit.cost == "latency_ms":
        return model.cost(limit.name, limit.confidence)
    if limit.cost not in model.beside:
        raise ValueError(
            f"the newest measurements of device {limit.device!r} have no {limit.cost}, so it cannot be predicted; "
            f"{HOW_TO_MEASURE[limit.cost]}"
        )
    return model.beside[limit.cost].cost(limit.name)


def constrain(
    limits: Sequence[Limit], tables: CostTables, latency: Mapping[str, LatencyModel]
) -> tuple[Constraint, ...]:
    """Limits as constraints on costs. Of several limits on a cost, the lowest counts. Raises what `cost_of` raises."""
    lowest: dict[str, Limit] = {}
    for limit in limits:
        if limit.name not in lowest or limit.max < lowest[limit.name].max:
            lowest[limit.name] = limit
    return tuple(Constraint(cost_of(limit, tables, latency), limit.max) for limit in lowest.values())


def allowed_resolutions(choices: Choices, resolution: int | None, max_resolution: int | None) -> NDArray[np.bool_]:
    """(R,) which resolutions of the space are open and allowed.

    Raises:
        ValueError: no resolution is allowed.
    """
    space = choices.space
    if resolution is not None and resolution not in space.resolutions:
        raise ValueError(f"resolution is {resolution}; {space.name} has {', '.join(map(str, space.resolutions))}")
    largest = math.inf if max_resolution is None else max_resolution
    if resolution is not None and resolution > largest:
        raise ValueError(f"resolution is {resolution} and max_resolution is {max_resolution}; leave one of them out")
    if min(space.resolutions) > largest:
        raise ValueError(
            f"max_resolution is {max_resolution}; the smallest of {space.name} is {min(space.resolutions)}"
        )
    allowed = np.array([resolution in (None, size) and size <= largest for size in space.resolutions])
    allowed &= choices.open[0, : len(allowed)]
    if not allowed.any():
        setting = f"resolution is {resolution}" if resolution is not None else f"max_resolution is {max_resolution}"
        raise ValueError(
            f"{setting}, which the restricted choices exclude: {choices.describe()}; leave one of them out"
        )
    return allowed
