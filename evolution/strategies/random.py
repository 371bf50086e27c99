"""Random search, the baseline: genes uniform over their choices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

BATCH = 500


class RandomSearch:
    """Proposes samples of the space and learns nothing."""

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._choices, self._rng = problem.region.choices, rng

    def ask(self) -> Genomes:
        """(500, G)."""
        return self._choices.sample(self._rng, BATCH)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Nothing to save."""
        return {}

    def restore(self, state: State) -> None:
        """Nothing to restore."""
