"""Limits: within them or refused, by enumeration; refusals name the true floor."""

from collections.abc import Sequence

import numpy as np
import pytest

from evolution.costs import AdditiveCost, Cost, CostTables, PeakCost
from evolution.feasibility import MAX_NODES, find_region
from evolution.limits import Constraint, Limit, constrain
from evolution.predictors.latency import LatencyModel
from evolution.refusal import Infeasible, Nearest, NotProven, Refused
from evolution.region import Region
from supernet.families import preset
from tests.support.tiny import TINY, enumerate_space, random_cost

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
IMAGENET = CostTables(preset("mbv3-imagenet-w1.2"))


def random_limits(rng: np.random.Generator, count: int) -> tuple[Constraint, ...]:
    """Costs that have nothing to do with each other, each limited somewhere in the lower part of its range."""
    costs = [random_cost(TABLES, rng, f"cost{i}") for i in range(count)]
    return tuple(Constraint(cost, float(np.quantile(cost(ALL), rng.uniform(0, 0.25)))) for cost in costs)


def decide(constraints: Sequence[Constraint], max_nodes: int = MAX_NODES) -> Region | Refused:
    try:
        return find_region(TABLES, constraints, max_nodes=max_nodes)
    except Refused as refusal:
        return refusal


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_region_is_refused_exactly_when_enumeration_finds_it_empty(count: int) -> None:
    rng = np.random.default_rng(count)
    outcomes = []
    for _ in range(100):
        constraints = random_limits(rng, count)
        costs = np.stack([constraint.cost(ALL) for constraint in constraints], axis=1)
        inside = (costs <= [constraint.max for constraint in constraints]).all(1)
        decision = decide(constraints)
        if isinstance(decision, Region):
            assert (decision.contains(ALL) == inside).all()
            assert set(np.flatnonzero(decision.anchored)) == set(ALL[inside, 0].tolist())
            assert decision.contains(decision.anchors[decision.anchored]).all()
        else:
            assert isinstance(decision, Infeasible)
            assert not inside.any()
            assert list(decision.floors.values()) == costs.min(0).tolist()
        outcomes.append(isinstance(decision, Region))
    assert any(outcomes)
    assert count == 1 or not all(outcomes)


def test_a_refusal_names_the_floor_and_the_architecture_that_reaches_it() -> None:
    cost = random_cost(TABLES, np.random.default_rng(0), "latency_ms@board")
    floor = cost.floors.min()
    region = find_region(TABLES, [Constraint(cost, floor)])
    assert region.contains(region.anchors[region.anchored]).all()
    with pytest.raises(Infeasible, match="latency_ms@board is limited to") as caught:
        find_region(TABLES, [Constraint(cost, np.nextafter(floor, 0))])
    refusal = caught.value
    assert refusal.floors == {"latency_ms@board": floor}
    assert refusal.costs == refusal.floors
    assert cost(TINY.encode(refusal.smallest)[None])[0] == floor
    advised = float(str(refusal).rsplit(" ", 1)[1])
    assert floor <= advised < floor * 1.0001
    find_region(TABLES, [Constraint(cost, advised)])


def test_limits_that_only_fail_together_are_told_apart_from_those_that_fail_alone() -> None:
    rng = np.random.default_rng(1)
    together = 0
    for _ in range(50):
        one, other = random_cost(TABLES, rng, "one"), random_cost(TABLES, rng, "other")
        refusal = decide([Constraint(cost, float(cost.floors.min() * 1.01)) for cost in (one, other)])
        if isinstance(refusal, Refused):
            together += 1
            assert "together" in str(refusal)
            assert all(refusal.floors[name] <= limit for name, limit in refusal.limits.items())
            assert any(refusal.costs[name] > limit for name, limit in refusal.limits.items())
    assert together


@pytest.mark.slow
def test_a_search_cut_off_says_not_proven() -> None:
    rng = np.random.default_rng(2)
    refusals = [decide(random_limits(rng, 3), max_nodes=0) for _ in range(300)]
    cut = [refusal for refusal in refusals if isinstance(refusal, NotProven)]
    assert cut
    assert not any(isinstance(refusal, Infeasible) for refusal in cut)
    assert all("nor proven impossible" in str(refusal) for refusal in cut)


@pytest.mark.slow
def test_what_is_known_to_be_within_the_limits_counts_where_the_search_was_cut_off() -> None:
    rng = np.random.default_rng(2)
    rescued = 0
    for _ in range(300):
        limits = random_limits(rng, 3)
        inside = np.logical_and.reduce([limit.cost(ALL) <= limit.max for limit in limits])
        if isinstance(decide(limits, max_nodes=0), NotProven) and inside.any():
            region = find_region(TABLES, limits, max_nodes=0, known=ALL)
            assert region.contains(region.anchors[region.anchored]).all()
            rescued += 1
        elif not inside.any():
            with pytest.raises(Refused):
                find_region(TABLES, limits, max_nodes=0, known=ALL)
    assert rescued


def test_a_resolution_restricts_region_and_floors() -> None:
    cost = random_cost(TABLES, np.random.default_rng(3))
    worst = int(cost.floors.argmax())
    limit = Constraint(cost, float(np.sort(cost.floors)[-2:].mean()))
    with pytest.raises(Infeasible, match=f"at resolution {TINY.resolutions[worst]}") as caught:
        find_region(TABLES, [limit], TINY.resolutions[worst])
    assert caught.value.floors == {"random": cost.floors[worst]}
    assert caught.value.smallest.resolution == TINY.resolutions[worst]
    region = find_region(TABLES, (), 12)
    assert np.unique(region.repair(ALL, np.random.default_rng(0))[:, 0]).tolist() == [1]
    with pytest.raises(ValueError, match="resolution is 10; tiny has 8, 12, 16"):
        find_region(TABLES, (), 10)


def test_a_resolution_that_cannot_be_predicted_is_outside() -> None:
    values = np.where(TABLES.dropped, 0.0, 1.0)
    values[TABLES.index(ALL[ALL[:, 0] == 1])[:, 0]] = np.inf
    cost = AdditiveCost(TABLES, "latency_ms@board", values)
    region = find_region(TABLES, [Constraint(cost, 1e6)])
    assert region.anchored.tolist() == [True, False, True]
    assert 1 not in region.repair(ALL, np.random.default_rng(0))[:, 0]
    with pytest.raises(Infeasible, match=r"cannot be predicted .* at resolution 12"):
        find_region(TABLES, [Constraint(cost, 1e6)], 12)


def test_a_resolution_that_a_published_table_lacks_is_infeasible_under_a_limit_on_it() -> None:
    sides, rng = IMAGENET.space.resolutions, np.random.default_rng(0)
    entries = np.unique(IMAGENET.elimination.entries[3])
    keys = [key for entry in entries if (key := IMAGENET.block_keys[entry]) is not None]
    device = LatencyModel.from_published(IMAGENET, {sides[3]: dict.fromkeys(keys, 1.0)}, "a test")
    limits = constrain([Limit("latency_ms", 1000.0, "note"), Limit("flops", 1e12)], IMAGENET, {"note": device})
    region = find_region(IMAGENET, limits)
    assert np.flatnonzero(region.anchored).tolist() == [3]
    assert set(region.repair(IMAGENET.space.sample(rng, 200), rng)[:, 0]) == {3}
    with pytest.raises(Infeasible, match=rf"cannot be predicted .* at resolution {sides[4]}") as caught:
        find_region(IMAGENET, limits, sides[4])
    assert caught.value.nearest["latency_ms@note"] == Nearest(np.inf, True)
    with pytest.raises(Infeasible, match=rf"cannot be predicted .* up to resolution {sides[2]}"):
        find_region(IMAGENET, limits, max_resolution=sides[2])


def test_two_devices_that_know_different_blocks_have_nothing_in_common() -> None:
    everywhere = np.where(TABLES.dropped, 0.0, 1.0)
    one, other = everywhere.copy(), everywhere.copy()
    stems = TABLES.index(np.array([[r] + [0] * (TINY.num_genes - 1) for r in range(3)], np.int8))[:, 0]
    one[stems[:2]], other[stems[2]] = np.inf, np.inf
    costs = [AdditiveCost(TABLES, name, values) for name, values in (("one", one), ("other", other))]
    with pytest.raises(Infeasible, match="together"):
        find_region(TABLES, [Constraint(cost, 100.0) for cost in costs])
    # The same, but within one resolution: each device lacks what the other one's only allowed block would be.
    head = TABLES.index(np.array([[0, g] + [0] * (TINY.num_genes - 2) for g in range(2)], np.int8))[:, -1]
    one, other = everywhere.copy(), everywhere.copy()
    one[head[0]], other[head[1]] = np.inf, np.inf
    costs = [AdditiveCost(TABLES, name, values) for name, values in (("one", one), ("other", other))]
    with pytest.raises(Infeasible, match="together"):
        find_region(TABLES, [Constraint(cost, 100.0) for cost in costs], 8)


def test_nearest_budgets_and_peaks_are_those_of_enumeration() -> None:
    """Sums and a peak together, in the lowest twelfth of their ranges, where some can be met and some cannot."""
    outcomes = set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        costs: list[Cost] = [random_cost(TABLES, rng, f"cost{i}") for i in range(rng.integers(0, 3))]
        whole = np.where(TABLES.dropped, 0.0, rng.integers(0, 12, TABLES.num_entries))
        costs.append([TABLES.peak_memory_cost, PeakCost(TABLES, "peak", whole), TABLES.model_bytes_cost][seed % 3])
        values = np.stack([cost(ALL) for cost in costs], axis=1)
        maxima = [float(np.sort(column)[int(rng.uniform(0, 0.12) * len(ALL))]) for column in values.T]
        maxima = [most * 0.99 if rng.random() < 0.1 else most for most in maxima]
        met = values <= maxima
        decision = decide([Constraint(cost, most) for cost, most in zip(costs, maxima, strict=True)])
        if isinstance(decision, Region):
            outcomes.add("met")
            assert (decision.contains(ALL) == met.all(1)).all()
            assert set(np.flatnonzero(decision.anchored)) == set(ALL[met.all(1), 0].tolist())
            assert decision.contains(decision.anchors[decision.anchored]).all()
            assert decision.contains(decision.repair(ALL[rng.choice(len(ALL), 50)], rng)).all()
            continue
        assert isinstance(decision, Infeasible)
        assert not met.all(1).any()
        for i, cost in enumerate(costs):
            others = np.delete(met, i, axis=1).all(1)
            nearest = decision.nearest[cost.name]
            assert nearest.proven
            assert nearest.value == pytest.approx(values[others, i].min() if others.any() else np.inf, rel=1e-9)
            assert decision.floors[cost.name] == values[:, i].min()
            outcomes.add("one is to be raised" if others.any() else "several are")
            if others.any():
                enough = [Constraint(c, nearest.value if c is cost else m) for c, m in zip(costs, maxima, strict=True)]
                assert isinstance(decide(enough), Region)
        smallest = TINY.encode(decision.smallest)[None]
        assert [cost(smallest)[0] for cost in costs] == pytest.approx(list(decision.costs.values()))
    assert outcomes == {"met", "one is to be raised", "several are"}


def test_a_largest_resolution_restricts_region_and_floors() -> None:
    cost = random_cost(TABLES, np.random.default_rng(3))
    floors = [min(cost.floors[: r + 1]) for r in range(3)]
    for r, side in enumerate(TINY.resolutions):
        with pytest.raises(Infeasible, match=f"up to resolution {side}") as caught:
            find_region(TABLES, [Constraint(cost, floors[r] * 0.99)], max_resolution=side)
        assert caught.value.floors == {"random": floors[r]}
        region = find_region(TABLES, (), max_resolution=side)
        assert np.unique(region.repair(ALL, np.random.default_rng(0))[:, 0]).tolist() == list(range(r + 1))
    assert find_region(TABLES, (), 8, 12).anchored.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="max_resolution is 7; the smallest of tiny is 8"):
        find_region(TABLES, (), max_resolution=7)
    with pytest.raises(ValueError, match="resolution is 16 and max_resolution is 12"):
        find_region(TABLES, (), 16, 12)


@pytest.mark.parametrize("slack", [1.0, 1.001, 1.2, 2.0])
def test_repair_ends_inside_and_leaves_alone_what_is_inside(slack: float) -> None:
    constraints = [
        Constraint(IMAGENET.flops_cost, float(IMAGENET.flops_cost.floors.min() * slack)),
        Constraint(IMAGENET.params_cost, float(IMAGENET.params_cost.floors.min() * slack * 2)),
    ]
    region = find_region(IMAGENET, constraints)
    rng = np.random.default_rng(0)
    genomes = IMAGENET.space.sample(rng, 500)
    repaired = region.repair(genomes, rng)
    assert region.contains(repaired).all()
    assert (repaired == IMAGENET.space.canonical(repaired)).all()
    inside = region.contains(genomes)
    assert (repaired[inside] == genomes[inside]).all()
    assert (region.repair(repaired, rng) == repaired).all()
    if slack == 2.0:
        assert len(np.unique(repaired, axis=0)) > 400


def test_an_impossible_pair_of_limits_on_a_large_space_is_decided() -> None:
    rng = np.random.default_rng(4)
    one = AdditiveCost(IMAGENET, "one", np.where(IMAGENET.dropped, 0, rng.exponential(1, IMAGENET.num_entries)))
    other = AdditiveCost(IMAGENET, "other", np.where(IMAGENET.dropped, 0, rng.exponential(1, IMAGENET.num_entries)))
    with pytest.raises(Infeasible, match="together"):
        find_region(IMAGENET, [Constraint(cost, float(cost.floors.min() * 1.05)) for cost in (one, other)])
    with pytest.raises(Infeasible, match="together") as caught:
        find_region(IMAGENET, [Constraint(cost, float(cost.floors.min() * 1.3)) for cost in (one, other)])
    for cost, held in ((one, other), (other, one)):
        near = caught.value.nearest[cost.name]
        assert near.proven
        find_region(IMAGENET, [Constraint(cost, near.value), Constraint(held, float(held.floors.min() * 1.3))])
        with pytest.raises(Infeasible):
            find_region(
                IMAGENET, [Constraint(cost, near.value * 0.9999), Constraint(held, float(held.floors.min() * 1.3))]
            )
    region = find_region(IMAGENET, [Constraint(cost, float(cost.floors.min() * 3)) for cost in (one, other)])
    assert region.anchored.any()
    assert region.contains(region.anchors[region.anchored]).all()


def test_limits_are_checked_when_they_are_made() -> None:
    assert Limit("flops", 1e6).name == "flops"
    assert Limit("latency_ms", 1, "board").name == "latency_ms@board"
    assert Limit("latency_ms", 1, "board", 0.9).name == "latency_ms@board@0.9"
    for arguments, message in [
        (("flops", -1.0), "limit of flops is -1.0"),
        (("flops", 0.0), "positive"),
        (("flops", float("nan")), "limit of flops is nan"),
        (("flops", float("inf")), "limit of flops is inf"),
        (("latency_ms", 1.0), "latency_ms needs a device"),
        (("flops", 1.0, "board"), "same on every device"),
        (("peak_memory_bytes", 1.0, "board"), "same on every device"),
        (("latency_ms", 1.0, "board", 1.0), "between 0.5 and 1"),
        (("flops", 1.0, None, 0.9), "only latency_ms takes one"),
    ]:
        with pytest.raises(ValueError, match=message):
            Limit(*arguments)  # type: ignore[arg-type]


def test_of_two_limits_on_one_cost_the_lower_counts() -> None:
    constraints = constrain([Limit("flops", 9e9), Limit("flops", 3e8), Limit("params", 1e7)], IMAGENET, {})
    assert [(constraint.cost.name, constraint.max) for constraint in constraints] == [("flops", 3e8), ("params", 1e7)]
    with pytest.raises(ValueError, match="device 'toaster' has no latency model; devices that have one: none"):
        constrain([Limit("latency_ms", 1, "toaster")], IMAGENET, {})


def test_a_limit_on_an_unknown_cost_names_the_costs() -> None:
    message = (
        "unknown cost 'speed'; the costs are flops, params, model_bytes, peak_memory_bytes, latency_ms, device_mem"
    )
    with pytest.raises(ValueError, match=message):
        constrain([Limit("speed", 1.0)], IMAGENET, {})
