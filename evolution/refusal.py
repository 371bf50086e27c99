"""Refusals: the exceptions raised when no architecture is within the limits, and their words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evolution.choices import Choices
from supernet.space import Architecture


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest budget of a cost: the lowest value it can have with every other limit unchanged.

    value: inf where nothing is within the other limits, so that raising this limit alone does not help. proven: whether
    `value` is exact; otherwise it is the lowest value found, and inf where none was found.
    """

    value: float
    proven: bool


class Refused(ValueError):  # noqa: N818 - an answer, named as one
    """No architecture is answered for these limits.

    limits: by name of the cost. floors: the lowest value of each limited cost alone; inf where it cannot be predicted.
    nearest: the nearest budget of each limited cost.
    smallest: the architecture that comes closest. It is within every limit but one and has that cost's nearest budget;
        where there is no such architecture, it has the lowest value of a cost. costs: its limited costs.
    """

    def __init__(
        self,
        message: str,
        *,
        floors: Mapping[str, float],
        nearest: Mapping[str, Nearest],
        limits: Mapping[str, float],
        smallest: Architecture,
        costs: Mapping[str, float],
    ) -> None:
        super().__init__(message)
        self.floors = dict(floors)
        self.nearest = dict(nearest)
        self.limits = dict(limits)
        self.smallest = smallest
        self.costs = dict(costs)


class Infeasible(Refused):
    """Proven: no architecture of the space is within every limit."""


class NotProven(Refused):
    """The nodes are spent: no architecture within every limit was found, and it is not proven that there is none."""


def describe_scope(choices: Choices, resolution: int | None, max_resolution: int | None) -> str:
    """The space, the resolutions allowed and the open choices, in words that follow "architecture"."""
    scope = f"of {choices.space.name}"
    if resolution:
        scope += f" at resolution {resolution}"
    elif max_resolution:
        scope += f" up to resolution {max_resolution}"
    return scope + (f" with {choices.describe()}" if choices.restricted else "")


def explain(
    scope: str,
    limits: Mapping[str, float],
    floors: Mapping[str, float],
    nearest: Mapping[str, Nearest],
    proven: bool,
) -> str:
    """A refusal in words: the limit furthest below its floor, or that several fail together, and what to raise."""
    worst = max(limits, key=lambda name: floors[name] / limits[name])
    if math.isinf(floors[worst]):
        return f"{worst} cannot be predicted for any architecture {scope}; measure the device there first"
    if floors[worst] > limits[worst]:
        reason = (
            f"{worst} is limited to {all_digits(limits[worst])}, and no architecture {scope} is below "
            f"{_rounded_up(floors[worst])}; "
        )
        if math.isfinite(nearest[worst].value):
            return f"{reason}raise the limit to at least {_rounded_up(nearest[worst].value)}"
        return f"{reason}raising it alone is not enough, for the other limits cannot be met together either"
    together = ", ".join(f"{name} {all_digits(value)}" for name, value in limits.items())
    raised = [
        f"{name} to at least {_rounded_up(near.value)}" for name, near in nearest.items() if math.isfinite(near.value)
    ]
    advice = f"raise {' or '.join(raised)}" if raised else "raise more than one"
    if proven:
        return (
            f"each of these limits can be met alone, but no architecture {scope} meets them together: {together}; "
            f"{advice}"
        )
    return f"no architecture {scope} was found within all of these limits, nor proven impossible: {together}; {advice}"


def all_digits(value: float) -> str:
    """A number for people, with all its digits and with thousands separated."""
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _rounded_up(value: float) -> str:
    """A number for people that is never below the value: six significant digits."""
    if value == int(value):
        return all_digits(value)
    digits = 5 - math.floor(math.log10(abs(value)))
    return f"{math.ceil(value * 10.0**digits) / 10.0**digits:,.{max(digits, 0)}f}"
