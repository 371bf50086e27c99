"""The knapsack on a problem small enough to solve by hand; regions test it against enumeration."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from evolution.costs import AdditiveCost, CostTables
from evolution.knapsack import Knapsacks, Solutions, solve
from supernet.operators import Operator, Part
from supernet.space import Gene, SearchSpace

VALUES, WEIGHTS = (6, 5, 4), (5, 4, 3)


@dataclass(frozen=True)
class Items:
    """One part per item, which exists where the item's gene says that it is taken."""

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        return tuple(
            Part(f"item{gene}", (gene,), lambda taken: (Operator("linear", 1, 1 + int(taken), 1),))
            for gene in range(1, 4)
        )


SPACE = SearchSpace(
    name="items",
    family="chain",
    classes=2,
    in_channels=1,
    resolutions=(1,),
    depths=((1,),),
    block_genes=(),
    layout=Items(),
    extra_genes=tuple(Gene(f"item{number}", (0, 1)) for number in (1, 2, 3)),
)
TABLES = CostTables(SPACE)


def pack(limit: float, max_nodes: int = 1000) -> Solutions:
    """The items of the module's example: the value left behind, minimised, and the weight taken, limited."""
    left = AdditiveCost(TABLES, "value left", np.array([[value, 0] for value in VALUES], np.float64).ravel())
    taken = AdditiveCost(TABLES, "weight taken", np.array([[0, weight] for weight in WEIGHTS], np.float64).ravel())
    knapsacks = Knapsacks(
        resolutions=np.array([0]),
        objectives=np.array([0]),
        limits=np.array([[np.inf, limit]]),
        groups=np.array([0]),
        num_groups=1,
        blocked=np.zeros((1, 6), bool),
    )
    return solve(TABLES, [left, taken], knapsacks, max_nodes)


def test_the_example_of_three_items() -> None:
    multiplier = 1.2
    choices = [min(value, multiplier * weight) for value, weight in zip(VALUES, WEIGHTS, strict=True)]
    assert choices == pytest.approx([6, 4.8, 3.6])
    assert sum(choices) - multiplier * 8 == pytest.approx(4.8)
    solutions = pack(8)
    assert solutions.values.tolist() == [5]
    assert solutions.genomes[0, 1:4].tolist() == [1, 0, 1]
    assert solutions.proven.tolist() == [True]


@pytest.mark.parametrize("limit", range(14))
def test_every_limit_on_the_weight_gives_the_best_of_the_eight_choices(limit: int) -> None:
    feasible = [taken for taken in product((0, 1), repeat=3) if np.dot(taken, WEIGHTS) <= limit]
    solutions = pack(limit)
    assert solutions.values[0] == min(sum(VALUES) - np.dot(taken, VALUES) for taken in feasible)
    assert solutions.proven.all()


def test_no_choice_is_within_a_negative_limit() -> None:
    solutions = pack(-1)
    assert solutions.values.tolist() == [np.inf]
    assert solutions.proven.all()
