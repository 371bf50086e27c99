"""Pareto fronts, computed by moocore. All objectives are minimised inside; outside, accuracy is a fraction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import moocore
import numpy as np
from numpy.typing import NDArray

from evolution.elimination import Floats
from supernet.space import Genomes


def non_dominated(objectives: Floats) -> NDArray[np.bool_]:
    """(N,) which of (N, M) objectives, lower is better, no other dominates. Of equal rows the first is kept."""
    if not len(objectives):
        return np.zeros(0, bool)
    inside: NDArray[np.bool_] = moocore.is_nondominated(objectives)
    return inside


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """Architectures of which none is better than another in accuracy and in every cost. Sorted by the first cost.

    genomes: (K, G). accuracy: (K,) predicted, a fraction. costs: (K, C), lower is better. names: of the C costs.
    """

    genomes: Genomes
    accuracy: Floats
    costs: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, genomes: Genomes, accuracy: Floats, costs: Floats, names: Sequence[str]) -> Self:
        """The front of N architectures, any of which may be dominated."""
        kept = np.flatnonzero(non_dominated(np.column_stack([-accuracy, costs])))
        kept = kept[np.lexsort((-accuracy[kept], costs[kept, 0]))]
        return cls(genomes[kept], accuracy[kept], costs[kept], tuple(names))

    def __len__(self) -> int:
        """K."""
        return len(self.genomes)

    @property
    def objectives(self) -> Floats:
        """(K, 1 + C) lower is better: error (1 - accuracy), then the costs."""
        return np.column_stack([1 - self.accuracy, self.costs])

    def hypervolume(self, reference: Sequence[float]) -> float:
        """The volume that the front dominates, up to a reference point (1 + C,): error, then the costs.

        Raises:
            ValueError: the reference point does not have one coordinate per objective.
        """
        if len(reference) != 1 + len(self.names):
            raise ValueError(f"the reference point needs 1 error and {len(self.names)} costs, not {list(reference)}")
        inside = (self.objectives < np.asarray(reference)).all(1)
        return float(moocore.hypervolume(self.objectives[inside], ref=list(reference))) if inside.any() else 0.0
