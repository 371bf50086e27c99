"""Variable elimination against enumeration, on random sets of tables."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.elimination import Elimination


@st.composite
def table_sets(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, ...]], int]:
    """Numbers of choices, scopes in any order, and a seed for the values."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=6))
    genes = st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=3, unique=True)
    scopes = [tuple(scope) for scope in draw(st.lists(genes, min_size=1, max_size=6))]
    return sizes, scopes, draw(st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=150)
@given(table_sets())
def test_minima_and_their_genomes_equal_enumeration(case: tuple[list[int], list[tuple[int, ...]], int]) -> None:
    sizes, scopes, seed = case
    rng = np.random.default_rng(seed)
    tables = [rng.integers(0, 20, [sizes[gene] for gene in scope]).astype(np.float64) for scope in scopes]
    offsets = np.cumsum([0] + [table.size for table in tables])
    elimination = Elimination(scopes, offsets[:-1].tolist(), sizes, conditioned=0)
    weights = elimination.condition(np.concatenate([table.ravel() for table in tables]))

    def total(genome: tuple[int, ...]) -> float:
        return float(sum(t[tuple(genome[g] for g in scope)] for t, scope in zip(tables, scopes, strict=True)))

    totals = {genome: total(genome) for genome in product(*map(range, sizes))}
    result = elimination.eliminate(weights)
    genomes = elimination.argmin(result)
    for choice in range(sizes[0]):
        assert result.minimum[choice] == min(value for genome, value in totals.items() if genome[0] == choice)
        assert total((choice, *genomes[choice, 1:].tolist())) == result.minimum[choice]
    for genome, value in totals.items():  # every total is the minimum plus the regrets of its choices
        regret = 0.0
        for bucket, table, message in zip(elimination.buckets, result.tables, result.messages, strict=True):
            at = (genome[0], *(genome[gene] for gene in bucket.scope))
            regret += table[(*at, genome[bucket.gene])] - message[at]
        assert result.minimum[genome[0]] + regret == value


@settings(deadline=None, max_examples=100)
@given(table_sets())
def test_the_least_maximum_equals_enumeration(case: tuple[list[int], list[tuple[int, ...]], int]) -> None:
    sizes, scopes, seed = case
    rng = np.random.default_rng(seed)
    tables = [rng.integers(0, 20, [sizes[gene] for gene in scope]).astype(np.float64) for scope in scopes]
    offsets = np.cumsum([0] + [table.size for table in tables])
    elimination = Elimination(scopes, offsets[:-1].tolist(), sizes, conditioned=0)
    result = elimination.eliminate(elimination.condition(np.concatenate([t.ravel() for t in tables])), np.maximum)

    def largest(genome: tuple[int, ...]) -> float:
        return float(max(t[tuple(genome[g] for g in scope)] for t, scope in zip(tables, scopes, strict=True)))

    genomes = elimination.argmin(result)
    for choice in range(sizes[0]):
        least = min(largest(genome) for genome in product(*map(range, sizes)) if genome[0] == choice)
        assert result.minimum[choice] == least == largest((choice, *genomes[choice, 1:].tolist()))
