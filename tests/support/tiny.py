"""A space small enough to enumerate, whose parts touch neighbouring blocks, so that elimination has real work to do."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from supernet.operators import Operator, Operators, Part
from supernet.space import Gene as GeneOf
from supernet.space import Genomes, SearchSpace, Value


@dataclass(frozen=True)
class ChainLayout:
    """A chain of linear layers: each block's layer goes from the width of the block before it to its own."""

    base: int = 3

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """The first layer, then per block one part that touches two blocks' widths, and a head by the extra gene."""
        parts = [Part("stem", (0,), lambda side: (Operator("conv", self.base, 4, int(side), 3),))]
        for s, depths in enumerate(space.depths):
            for b in range(depths[-1]):
                here = space.gene_of_block(s, b)
                before = (space.gene_of_block(s, b - 1),) if b else ()
                # The order of the genes is not that of the genome, and the resolution is not first.
                genes = (here, *before, space.depth_gene(s), 0) if s else (here, *before, space.depth_gene(s))
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, _block(b, bool(b), bool(s))))
        parts.append(Part("head", (1,), lambda groups: (Operator("linear", 8, 5 * int(groups), 1, bias=True),)))
        return tuple(parts)


@dataclass(frozen=True)
class _block:  # noqa: N801 - used as a function
    number: int
    has_before: bool
    has_side: bool

    def __call__(self, width: Value, *rest: Value) -> Operators:
        values = list(rest)
        side = int(values.pop()) if self.has_side else 4
        if self.number >= values.pop():
            return ()
        before = int(values[0]) if self.has_before else 2
        shuffle = Operator("shuffle", int(width), int(width), side)
        return (Operator("conv", before, int(width), side, norm=True), shuffle)


TINY = SearchSpace(
    name="tiny",
    family="chain",
    classes=5,
    in_channels=3,
    resolutions=(8, 12, 16),
    depths=((1, 2, 3), (1, 2)),
    block_genes=(GeneOf("width", (2, 3, 5)),),
    layout=ChainLayout(),
    extra_genes=(GeneOf("groups", (1, 2)),),
)


def enumerate_space(space: SearchSpace) -> Genomes:
    """(N, G) every canonical genome."""
    genomes = np.array(list(product(*(range(int(n)) for n in space.num_choices))), np.int8)
    return np.unique(space.canonical(genomes), axis=0)


def random_cost(tables: CostTables, rng: np.random.Generator, name: str = "random") -> AdditiveCost:
    """A cost with nothing regular about it: random tables, a random increasing map per resolution."""
    resolutions = len(tables.space.resolutions)
    values = np.where(tables.dropped, 0, rng.exponential(1, tables.num_entries))
    return AdditiveCost(tables, name, values, rng.uniform(0.5, 2, resolutions), rng.uniform(0, 1, resolutions))


def smooth_accuracy(space: SearchSpace, rng: np.random.Generator) -> "Additive":
    """An accuracy that is additive in the genes before a logistic link, growing with most of them."""
    return Additive(space, rng.normal(0.4, 0.5, space.num_genes) / np.sqrt(space.num_genes))


@dataclass(frozen=True)
class Additive:
    """A predictor that a vector of weights per gene defines."""

    space: SearchSpace
    weights: Floats

    @property
    def link(self) -> Link:
        """The logistic function."""
        return Link(1.0, 0.0)

    @property
    def model(self) -> Layers:
        """The same on one-hot genes."""
        choices = np.concatenate([np.arange(n) for n in self.space.num_choices])
        weights = np.repeat(self.weights, self.space.num_choices) * choices
        return Layers(((weights[:, None].astype(np.float32), np.zeros(1, np.float32)),))

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) fractions."""
        return np.asarray(1 / (1 + np.exp(-(genomes @ self.weights))))
