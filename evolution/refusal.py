"""What is said when no architecture is within the limits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from supernet.space import Architecture


@dataclass(frozen=True, slots=True)
class Nearest:
    """The least a limited cost can be with every other limit held as asked.

    value: inf where nothing is within the others, so that raising this limit alone does not help. proven: whether that
    is exact; otherwise it is the least that was found, and inf where nothing was.
    """

    value: float
    proven: bool


class Refused(ValueError):  # noqa: N818 - an answer, named as one
    """No architecture is answered for these limits.

    floors: the least each limited cost can be, alone, by name of the cost; inf where it cannot be predicted at all.
    nearest: by name of the cost, what its limit would have to be, the others held.
    smallest: the architecture that comes closest: within every limit but one, whose nearest budget it has, or else of
    least cost. costs: the limited costs of that architecture, by name. limits: the limits by name.
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
    """The nodes were spent: no architecture was found within every limit, and none is proven not to be."""


def _exact(value: float) -> str:
    """A limit for people, every digit of it."""
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _rounded_up(value: float) -> str:
    """A number for people that is never below the value."""
    if value == int(value):
        return _exact(value)
    digits = 5 - math.floor(math.log10(abs(value)))
    return f"{math.ceil(value * 10.0**digits) / 10.0**digits:,.{max(digits, 0)}f}"
