"""Pareto fronts, computed by moocore. All objectives are minimised inside; outside, accuracy is a fraction.

Deb 2002: K. Deb, A. Pratap, S. Agarwal, T. Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
IEEE Transactions on Evolutionary Computation 6 (2002).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import moocore
import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from supernet.space import Genomes


def non_dominated(objectives: Floats) -> NDArray[np.bool_]:
    """(N,) whether no other row dominates a row of objectives (N, M), lower is better. Of equal rows only the first."""
    if not len(objectives):
        return np.zeros(0, bool)
    inside: NDArray[np.bool_] = moocore.is_nondominated(objectives)
    return inside


def dominance_ranks(objectives: Floats) -> NDArray[np.intp]:
    """(N,) ranks of objectives (N, M), lower is better, by non-dominated sorting (Deb 2002, section III-A).

    Rank 0 is dominated by no row, rank 1 only by rows of rank 0, and so on. Equal rows share a rank.
    """
    if not len(objectives):
        return np.zeros(0, np.intp)
    ranks: NDArray[np.intp] = moocore.pareto_rank(objectives).astype(np.intp)
    return ranks


def crowding_distances(objectives: Floats, ranks: NDArray[np.intp]) -> Floats:
    """(N,) the distance between the two neighbours of each row of objectives (N, M) in its rank; inf at the ends.

    Summed over the objectives, each as a fraction of its range in that rank (Deb 2002, section III-B).
    """
    count = len(objectives)
    rows, distances = np.arange(count), np.zeros(count)
    for values in objectives.T:
        order = np.lexsort((values, ranks))
        values, rank = values[order], ranks[order]
        first, last = np.diff(rank, prepend=-1) > 0, np.diff(rank, append=count) > 0
        span = (values[last] - values[first])[np.cumsum(first) - 1]
        between = values[np.minimum(rows + 1, count - 1)] - values[np.maximum(rows - 1, 0)]
        gaps = np.divide(between, span, out=np.zeros(count), where=span > 0)
        distances[order] += np.where(first | last, np.inf, gaps)
    return distances


def hypervolumes(objectives: Floats, ends: Sequence[int] | NDArray[np.intp], reference: Sequence[float]) -> Floats:
    """(T,) the hypervolumes of the first `ends[0]`, `ends[1]`, ... of (N, M) objectives, lower is better.

    ends: (T,) ascending. reference: (M,) the point up to which volume counts.
    """
    volumes = np.zeros(len(ends))
    front, start = objectives[:0], 0
    for t, end in enumerate(ends):
        both = np.concatenate([front, objectives[start:end]])
        front, start = both[non_dominated(both)], end
        volumes[t] = _hypervolume(front, reference)
    return volumes


def _hypervolume(objectives: Floats, reference: Sequence[float]) -> float:
    """The volume between objectives (N, M) and a reference point (M,). Rows not below it in all M add nothing."""
    inside = (objectives < np.asarray(reference)).all(1)
    return float(moocore.hypervolume(objectives[inside], ref=list(reference))) if inside.any() else 0.0


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """Architectures none of which dominates another in accuracy and costs, sorted by the first cost.

    genomes: (K, G). accuracy: (K,) predicted, a fraction. costs: (K, C), lower is better. names: of the C costs.
    """

    genomes: Genomes
    accuracy: Floats
    costs: Floats
    names: tuple[str, ...]

    @classmethod
    def from_genomes(cls, genomes: Genomes, accuracy: Floats, costs: Floats, names: Sequence[str]) -> Self:
        """The front of N architectures: those that none of the others dominates."""
        rows = np.flatnonzero(non_dominated(np.column_stack([-accuracy, costs])))
        rows = rows[np.lexsort((-accuracy[rows], costs[rows, 0]))]
        arrays = genomes[rows], accuracy[rows], costs[rows]
        for array in arrays:
            array.setflags(write=False)
        return cls(*arrays, tuple(names))

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
        return _hypervolume(self.objectives, reference)


def thin_out(objectives: Floats, count: int) -> NDArray[np.intp]:
    """At most `count` rows of a front's objectives (N, M): those with the largest crowding distances, in order."""
    distances = crowding_distances(objectives, np.zeros(len(objectives), np.intp))
    return np.sort(np.argsort(-distances, kind="stable")[:count])
