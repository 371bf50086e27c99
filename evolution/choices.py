"""Which choices of each gene are open to a search, and genomes that keep to them.

A device may run some choices badly or not at all, such as kernel size 7. A request then restricts genes by name. The
genes of dropped blocks do not matter, so they cannot violate a restriction.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from supernet.costs.tables import PartTables
from supernet.space import Genomes, SearchSpace, Value

MOST_NAMED = 8  # genes that a message lists


class Choices:
    """The open choices of each gene of a space: all of them, or those that restrictions leave.

    restrictions: by name, the choices that stay open. A name is a gene's (`stage2.block1.kernel_size`), a kind's
    (`kernel_size`), which stands for all genes of this kind, or a kind's within a stage (`stage2.kernel_size`). A gene
    under several restrictions keeps the choices that all of them leave.

    open: (G, C) whether a gene has a choice and it is open. counts: (G,) the number of open choices.
    restricted: whether any choice is excluded.

    Raises:
        ValueError: an unknown name or choice, or a gene that is left without choices.

    >>> Choices(preset("mbv3-digits"), {"kernel_size": [3, 5], "stage3.depth": [2]}).describe()
    'kernel_size 3 or 5, stage3.depth 2'
    """

    def __init__(self, space: SearchSpace, restrictions: Mapping[str, Sequence[Value]] | None = None) -> None:
        self.space = space
        self.restrictions = {name: tuple(values) for name, values in (restrictions or {}).items()}
        exists = np.arange(space.num_choices.max()) < space.num_choices[:, None]
        self.open: NDArray[np.bool_] = exists.copy()
        for name, values in self.restrictions.items():
            self._restrict(name, values)
        self.counts: NDArray[np.int64] = self.open.sum(1)
        self.restricted = bool((self.open != exists).any())

    def _restrict(self, name: str, values: Sequence[Value]) -> None:
        genes = self._genes_called(name)
        offered = sorted({choice for gene in genes for choice in self.space.genes[gene].choices})
        for value in values:
            if value not in offered:
                raise ValueError(f"choices: {name} has no choice {value:.12g}; its choices are {_listed(offered)}")
        for gene in genes:
            choices = self.space.genes[gene].choices
            self.open[gene, : len(choices)] &= np.isin(choices, values)
            if not self.open[gene].any():
                raise ValueError(
                    f"choices: nothing is left of {self.space.genes[gene].name}, whose choices are {_listed(choices)}, "
                    f"with {name} restricted to {_listed(values) or 'no choice at all'}; leave it a choice that it has"
                )

    def _genes_called(self, name: str) -> list[int]:
        """The genes that a name stands for."""
        names = [gene.name for gene in self.space.genes]
        if name in names:
            return [names.index(name)]
        prefix, _, kind = name.rpartition(".")
        start = f"{prefix}." if prefix else ""
        genes = [i for i, full in enumerate(names) if full.rpartition(".")[2] == kind and full.startswith(start)]
        if not genes:
            kinds = list(dict.fromkeys(full.rpartition(".")[2] for full in names))
            examples = [full for full in names if "." in full]
            raise ValueError(
                f"choices: {self.space.name} has no gene {name!r}; its genes are {', '.join(kinds)}, or of a stage or "
                f"block: {', '.join(examples[:MOST_NAMED])}{', ...' if len(examples) > MOST_NAMED else ''}"
            )
        return genes

    @property
    def binding(self) -> dict[str, tuple[Value, ...]]:
        """The restrictions that exclude a choice. The others name every choice that their genes have."""
        return {
            name: values
            for name, values in self.restrictions.items()
            if any({*self.space.genes[gene].choices} - {*values} for gene in self._genes_called(name))
        }

    def describe(self) -> str:
        """The restrictions in words: `kernel_size 3 or 5, stage3.depth 2`; empty without restrictions."""
        return ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in self.restrictions.items())

    # Genomes. A choice's rank is its position among the open choices of its gene.

    @cached_property
    def _choice(self) -> NDArray[np.int8]:
        """(G, C) the choice of each rank; 0 beyond the last rank."""
        order: NDArray[np.int8] = np.argsort(~self.open, axis=1, kind="stable").astype(np.int8)
        return np.where(np.arange(order.shape[1]) < self.counts[:, None], order, np.int8(0))

    @cached_property
    def _rank(self) -> NDArray[np.int8]:
        """(G, C) the rank of the nearest open choice, of two the smaller one."""
        choices = np.arange(self.open.shape[1])
        distance = np.abs(choices[:, None] - choices).astype(np.float64)  # from each choice to each other one
        nearest = np.where(self.open[:, None], distance, np.inf).argmin(2)  # (G, C)
        ranks: NDArray[np.int8] = (np.take_along_axis(self.open.cumsum(1), nearest, 1) - 1).astype(np.int8)
        return ranks

    def ranks(self, genomes: Genomes) -> NDArray[np.int8]:
        """(N, G) the ranks of the choices of (N, G) genomes; for an excluded choice, of the nearest open one."""
        return self._rank[np.arange(len(self.open)), genomes] if self.restricted else genomes

    def from_ranks(self, ranks: NDArray[np.int8]) -> Genomes:
        """(N, G) the genomes whose choices have these ranks."""
        return self._choice[np.arange(len(self.open)), ranks] if self.restricted else ranks

    def nearest(self, genomes: Genomes) -> Genomes:
        """(N, G) canonical genomes: (N, G) genomes with every excluded choice replaced by the nearest open one."""
        return self.space.canonical(self.from_ranks(self.ranks(genomes)))

    def draw(self, rng: np.random.Generator, count: int) -> Genomes:
        """(count, G) genomes, not canonical, each gene uniform over its open choices."""
        return self.from_ranks((rng.random((count, len(self.counts))) * self.counts).astype(np.int8))

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """(count, G) canonical genomes, each gene uniform over its open choices."""
        return self.space.sample(rng, count, [np.flatnonzero(row).tolist() for row in self.open])

    # Tables.

    def excluded(self, tables: PartTables) -> NDArray[np.bool_]:
        """(F,) the entries that only architectures with an excluded choice have.

        Every gene of a block that is kept appears, with the gene that decides whether the block is kept, in an entry of
        its own part. So an architecture keeps to the open choices exactly when it has none of these entries.

        Raises:
            ValueError: a restricted gene that no part of the network depends on.
        """
        space = self.space
        restricted = self.counts < space.num_choices
        excluded, seen = np.zeros(tables.num_entries, bool), np.zeros(space.num_genes, bool)
        for part, offset in zip(space.parts, tables.offsets.tolist(), strict=True):
            genes = list(part.genes)
            if not restricted[genes].any():
                continue
            shape = tuple(space.num_choices[genes].tolist())
            entries = np.zeros((int(np.prod(shape)), space.num_genes), np.int8)
            entries[:, genes] = np.stack(np.unravel_index(np.arange(len(entries)), shape), axis=1)
            alive = space.alive(entries)[:, genes]
            violations = alive & ~self.open[genes, entries[:, genes]]
            excluded[offset : offset + len(entries)] = violations.any(1)
            seen[genes] |= alive.any(0)
        if (unseen := restricted & ~seen).any():
            raise ValueError(
                f"choices: nothing in {space.name} depends on {space.genes[int(unseen.argmax())].name}; leave it out"
            )
        return excluded & ~tables.dropped


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(map(str, values))
