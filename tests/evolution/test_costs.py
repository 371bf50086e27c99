"""Costs equal the sum over operator records, and their floors what enumeration finds."""

import numpy as np
import pytest

from evolution.costs import AdditiveCost, CostTables, PeakCost, round_to_grid
from supernet.families import preset
from supernet.operators import block_key
from supernet.space import Genomes, SearchSpace
from tests.support.neighbours import neighbours
from tests.support.tiny import TINY, enumerate_space, random_cost

SPACES = [TINY, preset("mbv3-digits"), preset("mbv3-imagenet-w1.0")]
TABLES = {space.name: CostTables(space) for space in SPACES}
ALL = enumerate_space(TINY)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.name))
def test_flops_and_params_are_sums_over_the_operators(space: SearchSpace) -> None:
    tables = TABLES[space.name]
    genomes = space.sample(np.random.default_rng(0), 50)
    operators = [space.operators(space.decode(genome)) for genome in genomes]
    assert tables.flops(genomes).tolist() == [sum(record.flops for record in records) for records in operators]
    assert tables.params(genomes).tolist() == [sum(record.params for record in records) for records in operators]


def test_genes_of_dropped_blocks_cost_nothing() -> None:
    tables, rng = TABLES["mbv3-digits"], np.random.default_rng(1)
    genomes = rng.integers(tables.space.num_choices, size=(200, tables.space.num_genes)).astype(np.int8)
    canonical = tables.space.canonical(genomes)
    assert (genomes != canonical).any()
    assert (tables.flops(genomes) == tables.flops(canonical)).all()


def test_many_genomes_cost_what_each_costs_alone() -> None:
    tables = TABLES["mbv3-digits"]
    genomes = tables.space.sample(np.random.default_rng(2), 20_000)
    rows = np.random.default_rng(3).choice(len(genomes), 20)
    assert tables.flops(genomes)[rows].tolist() == [tables.flops(genomes[[row]])[0] for row in rows]
    assert len(tables.flops(genomes[:0])) == 0


def test_block_keys_name_records_and_dropped_parts_have_none() -> None:
    tables = TABLES["tiny"]
    for key, records in zip(tables.block_keys, tables.operators, strict=True):
        assert key == (block_key(records) if records else None)
    keys = dict(zip(tables.operators, tables.block_keys, strict=True))
    assert len(set(keys.values())) == len(keys)


def test_a_missing_block_is_unknown_and_a_dropped_one_free() -> None:
    tables = TABLES["tiny"]
    known = [key for key in tables.block_keys if key is not None]
    values = tables.block_values(dict.fromkeys(known[1:], 2.0))
    for key, value in zip(tables.block_keys, values, strict=True):
        assert value == (0 if key is None else np.inf if key == known[0] else 2)


@pytest.mark.parametrize("seed", range(10))
def test_floors_equal_enumeration_bit_for_bit(seed: int) -> None:
    cost = random_cost(TABLES["tiny"], np.random.default_rng(seed))
    everything = cost(ALL)
    for r in range(len(TINY.resolutions)):
        assert cost.floors[r] == everything[ALL[:, 0] == r].min()
        assert cost.floors[r] == cost(cost.cheapest[[r]])[0]
    assert (cost.cheapest == TINY.canonical(cost.cheapest)).all()
    assert everything.max() <= cost.ceiling


def test_a_peak_is_the_largest_of_its_parts_and_its_floors_equal_enumeration() -> None:
    tables = TABLES["tiny"]
    random = np.where(tables.dropped, 0.0, np.random.default_rng(0).exponential(1, tables.num_entries))
    for cost in (tables.peak_memory_cost, PeakCost(tables, "random", random)):
        everything = cost(ALL)
        assert everything.tolist() == cost.values[tables.index(ALL)].max(1).tolist()
        for r in range(len(TINY.resolutions)):
            assert cost.floors[r] == everything[ALL[:, 0] == r].min() == cost(cost.cheapest[[r]])[0]
        most = float(np.median(everything))
        excess = cost.excess(most)(ALL)
        assert ((excess <= 1) == (everything <= most)).all()
        assert (excess == 1 + (cost.values[tables.index(ALL)] > most).sum(1)).all()
        assert cost.ceiling >= everything.max()
    with pytest.raises(ValueError, match="negative"):
        PeakCost(tables, "below", -random)


def test_what_is_unknown_everywhere_has_an_infinite_floor_and_no_part_in_others() -> None:
    tables = TABLES["tiny"]
    values = np.where(tables.dropped, 0.0, 1.0)
    stem = [tables.index(np.array([[r, 0, 0, 0, 0, 0, 0, 0, 0]], np.int8))[0, 0] for r in range(3)]
    values[stem[1]] = np.inf
    floors = AdditiveCost(tables, "partial", values).floors
    assert np.isinf(floors).tolist() == [False, True, False]


def test_floors_of_a_large_space_hold_for_samples_and_neighbours() -> None:
    space, tables = SPACES[2], TABLES["mbv3-imagenet-w1.0"]
    floors = tables.flops_cost.floors
    genomes = space.sample(np.random.default_rng(4), 5000)
    assert (tables.flops(genomes) >= floors[genomes[:, 0]]).all()
    lowest: Genomes = tables.flops_cost.cheapest[3]
    around = neighbours(space, lowest)
    same = around[:, 0] == lowest[0]
    assert (tables.flops(around[same]) >= floors[3]).all()
    smallest = space.decode(lowest)
    assert [len(stage) for stage in smallest.stages] == [2] * 5
    assert {block for stage in smallest.stages for block in stage} == {(3, 3)}


def test_the_grid_keeps_integers_and_makes_sums_independent_of_their_order() -> None:
    rng = np.random.default_rng(5)
    integers = rng.integers(0, 2**40, 100).astype(np.float64)
    assert (round_to_grid(integers) == integers).all()
    values = round_to_grid(rng.exponential(1, 1000))
    assert len({rng.permutation(values).sum() for _ in range(20)}) == 1
    assert np.isinf(round_to_grid(np.array([np.inf]))).all()


def test_bad_tables_are_refused() -> None:
    tables = TABLES["tiny"]
    values = np.where(tables.dropped, 0.0, 1.0)
    with pytest.raises(ValueError, match="values needed"):
        AdditiveCost(tables, "short", values[1:])
    with pytest.raises(ValueError, match="scales must be positive"):
        AdditiveCost(tables, "flat", values, np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="one per resolution"):
        AdditiveCost(tables, "short", values, np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="above -inf"):
        AdditiveCost(tables, "nan", values * np.nan)
    with pytest.raises(ValueError, match="dropped part"):
        AdditiveCost(tables, "ghosts", np.ones(tables.num_entries))
