"""Fronts by their definition, hypervolumes by closed form."""

import numpy as np
import pytest

from evolution.pareto import ParetoFront, non_dominated


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_non_dominated_is_its_definition(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 6, (200, objectives)).astype(np.float64)
    kept = non_dominated(points)
    for i, point in enumerate(points):
        better = (points <= point).all(1) & (points < point).any(1)
        earlier_equal = (points[:i] == point).all(1)
        assert kept[i] == (not better.any() and not earlier_equal.any())
    assert non_dominated(points[:0]).tolist() == []


def front(accuracy: list[float], flops: list[float]) -> ParetoFront:
    genomes = np.arange(len(accuracy), dtype=np.int8)[:, None]
    return ParetoFront.of(genomes, np.array(accuracy), np.array(flops)[:, None], ["flops"])


def test_a_front_is_sorted_by_cost_and_rises_in_accuracy() -> None:
    kept = front([0.9, 0.7, 0.8, 0.6, 0.9], [30, 10, 20, 25, 31])
    assert kept.genomes[:, 0].tolist() == [1, 2, 0]
    assert kept.costs[:, 0].tolist() == [10, 20, 30]
    assert kept.accuracy.tolist() == [0.7, 0.8, 0.9]
    assert len(kept) == 3
    assert kept.objectives[0] == pytest.approx([0.3, 10])


def test_hypervolume_is_the_dominated_area() -> None:
    kept = front([0.9, 0.7], [30, 10])
    # error 0.1 at cost 30, error 0.3 at cost 10, up to error 0.5 and cost 40
    assert kept.hypervolume([0.5, 40]) == pytest.approx(30 * 0.2 + 10 * 0.2)
    assert kept.hypervolume([0.05, 40]) == 0
    with pytest.raises(ValueError, match="1 error and 1 costs"):
        kept.hypervolume([0.5])


def test_an_empty_front_dominates_nothing() -> None:
    empty = front([], [])
    assert len(empty) == 0
    assert empty.hypervolume([1, 1]) == 0
