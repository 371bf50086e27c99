"""Fronts by their definition, hypervolumes by closed form."""

import numpy as np
import pytest

from evolution.pareto import ParetoFront, crowding_distances, dominance_ranks, hypervolumes, non_dominated


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_non_dominated_is_its_definition(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 6, (200, objectives)).astype(np.float64)
    kept = non_dominated(points)
    for i, point in enumerate(points):
        better = (points <= point).all(1) & (points < point).any(1)
        earlier_equal = (points[:i] == point).all(1)
        assert kept[i] == (not better.any() and not earlier_equal.any())
    assert non_dominated(points[:0]).tolist() == []


@pytest.mark.parametrize("objectives", [2, 3])
def test_ranks_are_the_fronts_that_remain_when_better_ones_are_taken_away(objectives: int) -> None:
    points = np.random.default_rng(objectives).normal(size=(150, objectives))
    ranks, left = dominance_ranks(points), np.arange(len(points))
    for rank in range(int(ranks.max()) + 1):
        best = non_dominated(points[left])
        assert sorted(np.flatnonzero(ranks == rank)) == sorted(left[best])
        left = left[~best]
    assert not len(left)
    assert dominance_ranks(points[:0]).tolist() == []


def test_crowding_distance_is_as_its_paper_defines_it() -> None:
    points = np.random.default_rng(0).integers(0, 50, (80, 3)).astype(np.float64)
    ranks = dominance_ranks(points)
    expected = np.zeros(len(points))
    for rank in range(int(ranks.max()) + 1):
        rows = np.flatnonzero(ranks == rank)
        for values in points.T:
            order = rows[np.argsort(values[rows], kind="stable")]
            span = values[order[-1]] - values[order[0]]
            expected[order[[0, -1]]] = np.inf
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                expected[here] += (values[after] - values[before]) / span if span else 0
    assert crowding_distances(points, ranks) == pytest.approx(expected)
    assert crowding_distances(np.array([[1.0, 2.0]]), np.zeros(1, np.intp)).tolist() == [np.inf]
    assert crowding_distances(points[:0], ranks[:0]).tolist() == []


def test_hypervolumes_are_those_of_ever_more_points() -> None:
    points = np.random.default_rng(1).uniform(0, 1.2, (90, 3))
    grid = (np.indices((40, 40, 40)).reshape(3, -1).T + 0.5) / 40
    volumes = hypervolumes(points, [5, 30, 90], [1, 1, 1])
    for volume, end in zip(volumes, [5, 30, 90], strict=True):
        dominated = np.any([(grid >= point).all(1) for point in points[:end]], axis=0)
        assert volume == pytest.approx(dominated.mean(), abs=0.02)
    assert hypervolumes(points, [], [1, 1, 1]).tolist() == []


def front(accuracy: list[float], flops: list[float]) -> ParetoFront:
    genomes = np.arange(len(accuracy), dtype=np.int8)[:, None]
    return ParetoFront.from_genomes(genomes, np.array(accuracy), np.array(flops)[:, None], ["flops"])


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


def test_the_front_of_two_fronts_keeps_what_neither_dominates() -> None:
    now, stored = front([0.9, 0.7], [30, 10]), front([0.95, 0.8, 0.6], [40, 9, 8])
    both = joined(now, stored)
    assert both.costs[:, 0].tolist() == [8, 9, 30, 40]
    assert both.accuracy.tolist() == [0.6, 0.8, 0.9, 0.95]
    assert both.hypervolume([1, 50]) >= max(now.hypervolume([1, 50]), stored.hypervolume([1, 50]))
    assert joined(now, now).genomes.tolist() == now.genomes.tolist()
    assert joined(now, front([], [])).genomes.tolist() == now.genomes.tolist()
    with pytest.raises(ValueError, match="read-only"):
        both.accuracy[0] = 1


def joined(first: ParetoFront, second: ParetoFront) -> ParetoFront:
    """The front of the architectures of two fronts."""
    genomes, accuracy, costs = (
        np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("genomes", "accuracy", "costs")
    )
    return ParetoFront.from_genomes(genomes, accuracy, costs, first.names)
