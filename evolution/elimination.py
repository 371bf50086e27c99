"""Exact minima of sums of small tables: min-sum variable elimination, also called bucket elimination.

R. Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence 113 (1999). One gene is
conditioned on instead of eliminated (the resolution), so there is one minimum per choice of that gene.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats


@dataclass(frozen=True, slots=True)
class _Source:
    """One input of a bucket: columns of the conditioned tables, or the message of an earlier bucket."""

    columns: slice | None
    message: int
    shape: tuple[int, ...]  # broadcasts against (*scope, gene)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The step that eliminates one gene. scope: the genes, eliminated later, on which its minimum depends."""

    gene: int
    scope: tuple[int, ...]
    sources: tuple[_Source, ...]


@dataclass(frozen=True, slots=True)
class Eliminated:
    """The results of B eliminations.

    minimum: (B,). tables: per bucket (B, *scope, gene), the lowest total of everything eliminated so far.
    messages: per bucket (B, *scope), `tables` minimised over the gene.
    `tables[k] - messages[k][..., None]` is the regret of a choice; the total of a genome is `minimum` plus the regrets
    of its choices.
    """

    minimum: Floats
    tables: tuple[Floats, ...]
    messages: tuple[Floats, ...]


class Elimination:
    """The order in which genes are eliminated, computed once per space, and eliminations in that order.

    scopes: per table, the indices of its genes in the order of its axes. offsets: per table, the number of its first
    entry among all F entries. num_choices: (G,). conditioned: the gene that is never eliminated; it has R choices.
    """

    def __init__(
        self, scopes: Sequence[tuple[int, ...]], offsets: Sequence[int], num_choices: Sequence[int], conditioned: int
    ) -> None:
        self.num_genes = len(num_choices)
        self._sizes = tuple(num_choices)
        free = [set(scope) - {conditioned} for scope in scopes]
        order = self._order(free)
        rank = {gene: position for position, gene in enumerate(order)}
        columns, pieces = 0, []
        self.constants: list[slice] = []  # tables of no gene but the conditioned one
        inputs: list[tuple[tuple[int, ...], slice | None, int]] = []
        for scope, offset in zip(scopes, offsets, strict=True):
            genes = self._sorted(set(scope) - {conditioned}, rank)
            entries = self._gather(scope, offset, genes, conditioned)
            here = slice(columns, columns + entries.shape[1])
            columns = here.stop
            pieces.append(entries)
            if genes:
                inputs.append((genes, here, -1))
            else:
                self.constants.append(here)
        self.entries = np.concatenate(pieces, axis=1)  # (R, F') the entry of each column of the conditioned tables
        self.buckets: list[Bucket] = []
        for gene in order:
            used = [source for source in inputs if gene in source[0]]
            inputs = [source for source in inputs if gene not in source[0]]
            scope = self._sorted({g for genes, _, _ in used for g in genes} - {gene}, rank)
            sources = tuple(
                _Source(here, message, tuple(self._sizes[g] if g in genes else 1 for g in (*scope, gene)))
                for genes, here, message in used
            )
            inputs.append((scope, None, len(self.buckets)))
            self.buckets.append(Bucket(gene, scope, sources))
        self._roots = [k for k, bucket in enumerate(self.buckets) if not bucket.scope]
        self.frontiers = [self._frontier(k) for k in range(len(self.buckets))]

    def _order(self, scopes: list[set[int]]) -> list[int]:
        """Every gene of a table, cheapest bucket first (the greedy min-weight order)."""
        graph = {gene: set[int]() for scope in scopes for gene in scope}
        for scope in scopes:
            for gene in scope:
                graph[gene] |= scope - {gene}
        order = []
        while graph:
            gene = min(graph, key=lambda g: (self._weight(g, graph[g]), g))
            around = graph.pop(gene)
            for neighbour in around:
                graph[neighbour] |= around - {neighbour}
                graph[neighbour].discard(gene)
            order.append(gene)
        return order

    def _weight(self, gene: int, around: set[int]) -> int:
        weight = self._sizes[gene]
        for neighbour in around:
            weight *= self._sizes[neighbour]
        return weight

    @staticmethod
    def _sorted(genes: set[int], rank: dict[int, int]) -> tuple[int, ...]:
        return tuple(sorted(genes, key=lambda gene: -rank[gene]))

    def _gather(
        self, scope: tuple[int, ...], offset: int, genes: tuple[int, ...], conditioned: int
    ) -> NDArray[np.intp]:
        """(R, columns) the entries of one table, its axes in the order of `genes`."""
        shape = tuple(self._sizes[gene] for gene in scope)
        table = offset + np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
        axes = tuple(scope.index(gene) for gene in genes)
        if conditioned in scope:
            table = table.transpose(scope.index(conditioned), *axes)
        else:
            table = np.broadcast_to(table.transpose(axes), (self._sizes[conditioned], *(shape[a] for a in axes)))
        return table.reshape(self._sizes[conditioned], -1)

    def _frontier(self, number: int) -> list[int]:
        """The genes eliminated in this bucket or later on which earlier buckets depend."""
        scopes = {gene for bucket in self.buckets[:number] for gene in bucket.scope}
        return sorted(scopes & {bucket.gene for bucket in self.buckets[number:]})

    def condition(self, values: Floats) -> Floats:
        """(F,) values of all entries -> (R, F') the tables that remain for each choice of the conditioned gene."""
        return values[self.entries]

    def eliminate(self, weights: Floats, join: np.ufunc = np.add) -> Eliminated:
        """Minimise B sums of tables. weights: (B, F') results of `condition`, or weighted sums of such results.

        join: `np.maximum` minimises the largest of the tables' values instead of their sum. No value may be negative
        then, and a total is not `minimum` plus regrets.
        """
        count = len(weights)
        tables: list[Floats] = []
        messages: list[Floats] = []
        for bucket in self.buckets:
            total: Floats | None = None
            for source in bucket.sources:
                values = messages[source.message] if source.columns is None else weights[:, source.columns]
                values = values.reshape(count, *source.shape)
                total = values if total is None else join(total, values)
            assert total is not None  # a bucket exists because a table has its gene
            tables.append(total)
            messages.append(total.min(-1))
        minimum = np.zeros(count)
        for here in self.constants:
            minimum = join(minimum, weights[:, here.start])
        for root in self._roots:
            minimum = join(minimum, messages[root])
        return Eliminated(minimum, tuple(tables), tuple(messages))

    def argmin(self, eliminated: Eliminated) -> NDArray[np.int8]:
        """(B, G) choices that reach the minima; 0 for genes without a table and for the conditioned gene."""
        rows = np.arange(len(eliminated.minimum))
        genomes = np.zeros((len(rows), self.num_genes), np.int8)
        for bucket, table in zip(reversed(self.buckets), reversed(eliminated.tables), strict=True):
            choices = table[(rows, *(genomes[:, gene] for gene in bucket.scope))]
            genomes[:, bucket.gene] = choices.argmin(-1)
        return genomes
