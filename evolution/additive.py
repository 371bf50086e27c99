"""The score of an accuracy predictor as a cost: minus the score is a sum of one value per part, as FLOPs are.

So the most accurate architecture within limits is the solution of a knapsack (`evolution.knapsack`), with a proof.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.accuracy import AccuracyPredictor

SUM_BITS = 22  # sums of table values stay below 2**22, so that they are exact (`round_to_grid`)
CACHED = 16  # score costs, of as many predictors


@lru_cache(CACHED)
def score_cost(tables: CostTables, predictor: AccuracyPredictor) -> AdditiveCost | None:
    """Minus the score of a predictor as a cost: equal to `-predictor.score(genomes)` but for the last bits.

    None if the score is no sum over genes, or if a gene is in no part that can carry its weights.

    1. A gene's weights go to the entries of a part that depends on the gene and is kept whenever the gene matters.
    2. A larger depth keeps further blocks. A part that it keeps carries the change that this step of the depth makes.
    3. The rest is the same for all architectures of a resolution: the offset. A dropped part must be worth 0, so the
       offset also holds the weight of each smallest depth, and of a choice that drops its own part.

    Raises:
        ValueError: the predictor is of another space.
    """
    space = tables.space
    if predictor.space.hash != space.hash:
        raise ValueError(f"the accuracy predictor is of space {predictor.space.name}, not of {space.name}")
    if predictor.additive is None:
        return None
    weights, bias = predictor.additive
    resolution, *others = np.split(weights, np.cumsum(space.num_choices)[:-1])
    parts, values, offset = _Parts(tables), np.zeros(tables.num_entries), bias + resolution
    for gene, own_weights in enumerate(others, 1):
        rest = parts.place(values, gene, own_weights)
        if rest is None:
            return None
        offset = offset + rest
    largest = sum(float(np.abs(values[rows]).max()) for rows in parts.rows)
    shift = SUM_BITS - int(np.ceil(np.log2(largest))) if largest > 0 else 0
    scale = np.full(len(offset), np.ldexp(1.0, -shift))
    return AdditiveCost(tables, "score", np.ldexp(-values, shift), scale, -offset)


class _Parts:
    """The parts of a space as rows of its tables. rows: per part, its entries."""

    def __init__(self, tables: CostTables) -> None:
        self._space, self._dropped = tables.space, tables.dropped
        ends = [*tables.offsets[1:].tolist(), tables.num_entries]
        self.rows = [slice(start, end) for start, end in zip(tables.offsets.tolist(), ends, strict=True)]

    def place(self, values: Floats, gene: int, weights: Floats) -> float | None:
        """Add a gene's weights to (F,) values. Returns the rest, for the offset; None if no part can carry them."""
        space, depth_gene = self._space, self._space.depth_gene(0)
        if gene in range(depth_gene, depth_gene + len(space.depths)):
            return self._place_depth(values, gene, weights)
        deciding, smallest = (int(array[gene]) for array in space.life)
        for part in self._depending_on(gene):
            kept, choices = ~self._dropped[self.rows[part]], self._choices(part, gene)
            if smallest and deciding in space.parts[part].genes:
                if (kept == (self._choices(part, deciding) >= smallest)).all():
                    values[self.rows[part]] += np.where(kept, weights[choices], 0.0)
                    return 0.0
            elif not smallest and len(dropping := np.unique(choices[~kept])) < 2:
                rest = float(weights[dropping].sum())
                values[self.rows[part]] += np.where(kept, weights[choices] - rest, 0.0)
                return rest
        return None

    def _place_depth(self, values: Floats, gene: int, weights: Floats) -> float | None:
        for step, change in enumerate(np.diff(weights), 1):
            for part in self._depending_on(gene):
                kept = self._choices(part, gene) >= step
                if (kept == ~self._dropped[self.rows[part]]).all():
                    values[self.rows[part]] += np.where(kept, change, 0.0)
                    break
            else:
                return None
        return float(weights[0])

    def _depending_on(self, gene: int) -> list[int]:
        """The parts that depend on a gene."""
        return [number for number, part in enumerate(self._space.parts) if gene in part.genes]

    def _choices(self, part: int, gene: int) -> NDArray[np.intp]:
        """The choice that a gene has in each entry of a part."""
        genes = self._space.parts[part].genes
        shape = self._space.num_choices[list(genes)].tolist()
        choices: NDArray[np.intp] = np.indices(shape)[genes.index(gene)].ravel()
        return choices
