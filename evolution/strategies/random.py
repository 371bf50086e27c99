"""Random search, the baseline: genes uniform over their choices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.strategies import Scores, State
from supernet.space import Genomes, SearchSpace

BATCH = 500


class RandomSearch:
    """Proposes samples of the space and learns nothing."""

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng

    def ask(self) -> Genomes:
        """(500, G)."""
        return self._space.sample(self._rng, BATCH)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Nothing to save."""
        return {}

    def restore(self, state: State) -> None:
        """Nothing to restore."""
