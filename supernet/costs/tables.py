"""Tables of a network's parts: every part at every combination of its genes' choices. numpy only."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from supernet.operators import Operators, Part, block_key
from supernet.space import Genomes, SearchSpace, Value

CHUNK = 8192  # genomes indexed at once, so that temporaries stay in cache


def part_variants(part: Part, choices: Sequence[Sequence[Value]]) -> list[Operators]:
    """A part's operator records at every combination of its genes' choices; its last gene varies fastest.

    choices: per gene of the space, the values to combine.
    """
    return [part.operators(*values) for values in product(*(choices[gene] for gene in part.genes))]


class PartTables:
    """Every part of a space at every combination of its genes' choices, in one flat list of F entries.

    A table of a cost is then an array of F values, and the cost of a genome is made of one entry per part:
    `values[tables.index(genomes)].sum(1)` for a cost that adds up over parts.

    operators: (F,) the operator records of each entry; () where the genes drop the part.
    parts: (F,) the number of the part that each entry belongs to.
    offsets: (P,) the number of the first entry of each part.
    """

    def __init__(self, space: SearchSpace, resolution: int | None = None) -> None:
        """Evaluate every part once per combination.

        resolution: any multiple of 4, at which all entries are made, whatever a genome's resolution gene says; by
        default each resolution of the space has its own entries.
        """
        self.space = space
        choices: list[Sequence[Value]] = [gene.choices for gene in space.genes]
        if resolution is not None:
            choices[0] = (resolution,)
        operators: list[Operators] = []
        parts: list[int] = []
        offsets: list[int] = []
        self._strides = np.zeros((space.num_genes, len(space.parts)))
        for number, part in enumerate(space.parts):
            offsets.append(len(operators))
            operators += part_variants(part, choices)
            parts += [number] * (len(operators) - len(parts))
            stride = 1
            for gene in reversed(part.genes):
                self._strides[gene, number] = stride
                stride *= len(choices[gene])
        if resolution is not None:
            self._strides[0] = 0
        self.operators, self.parts = tuple(operators), tuple(parts)
        self.offsets = np.array(offsets)

    @property
    def num_entries(self) -> int:
        """F."""
        return len(self.operators)

    @cached_property
    def dropped(self) -> NDArray[np.bool_]:
        """(F,) whether the entry's genes drop its part."""
        return np.array([not records for records in self.operators])

    @cached_property
    def block_keys(self) -> tuple[str | None, ...]:
        """(F,) the `block_key` of each entry's records; None where the part is dropped."""
        keys = {records: block_key(records) for records in set(self.operators)}
        return tuple(keys[records] if records else None for records in self.operators)

    def values(self, cost: Callable[[Operators], float]) -> NDArray[np.float64]:
        """(F,) a cost of each entry's records; equal records are computed once."""
        values = {records: cost(records) for records in set(self.operators)}
        return np.array([values[records] for records in self.operators], np.float64)

    def index(self, genomes: Genomes) -> NDArray[np.intp]:
        """(N, P) the entry of each part for (N, G) genomes, canonical or not.

        An entry is found by a matrix product, since products and sums of small integers are exact in floating point
        and BLAS computes them fastest.
        """
        result = np.empty((len(genomes), len(self.offsets)), np.intp)
        for start in range(0, len(genomes), CHUNK):
            rows = slice(start, start + CHUNK)
            result[rows] = genomes[rows].astype(np.float64) @ self._strides + self.offsets
        return result
