"""Strategies compared at equal evaluations, over several seeds, against random search (arXiv:1902.07638).

Every strategy gets the same problem, the same budget and the same seeds, and its own predictions count. Random search
is the baseline of that paper: it never ends with the local search, whatever the others do.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.validation import rank_sum_p_value
from evolution.problem import Problem
from evolution.search import Search
from supernet.space import Genomes

BASELINE = "random"


@dataclass(frozen=True, eq=False)
class Run:
    """One search of a comparison.

    best: (G,) what it found. evaluations, accuracy: (T,) after each generation, the predictions made so far and the
    best of them. seconds: what the search took.
    """

    strategy: str
    seed: int
    best: Genomes
    evaluations: NDArray[np.int64]
    accuracy: Floats
    seconds: float

    def at(self, evaluations: NDArray[np.int64]) -> Floats:
        """(N,) the best predicted accuracy after so many evaluations; nan before the first generation's end."""
        last = np.searchsorted(self.evaluations, evaluations, side="right") - 1
        return np.where(last < 0, np.nan, self.accuracy[last])


def run_strategies(
    problem: Problem, strategies: Sequence[str], *, evaluations: int, seeds: int, local_search: bool = True
) -> Iterator[Run]:
    """Search with every strategy and seed, a seed at a time, so that a machine's drift is spread over the strategies.

    Raises:
        ValueError: the problem has another objective than accuracy. Also what `Search` raises.
    """
    if problem.minimise or problem.pareto:
        raise ValueError("strategies are compared by the accuracy that they reach; leave the other objectives out")
    for seed in range(seeds):
        for strategy in strategies:
            polish = local_search and strategy != BASELINE
            started = time.perf_counter()
            search = Search(problem, strategy=strategy, evaluations=evaluations, seed=seed, polish=polish)
            steps = [(progress.evaluations, progress.predicted_accuracy) for progress in search.run()]
            seconds = time.perf_counter() - started
            made, accuracy = zip(*steps, strict=True)
            yield Run(strategy, seed, search.result().best, np.array(made), np.array(accuracy), seconds)


@dataclass(frozen=True, slots=True)
class Summary:
    """How one strategy did over its S seeds.

    accuracies: (S,) of the best architecture found, predicted. regret: the mean distance to the best known. p_value: of
    the hypothesis that it is no better than random search, by an exact one-sided Mann-Whitney U test; None for random
    search itself. evaluations, seconds: means.
    """

    strategy: str
    accuracies: tuple[float, ...]
    mean: float
    deviation: float
    regret: float
    p_value: float | None
    evaluations: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison's runs say. best_known: the highest predicted accuracy of any, or the optimum where known."""

    runs: tuple[Run, ...]
    best_known: float
    summaries: tuple[Summary, ...]

    @classmethod
    def from_runs(cls, done: Iterable[Run], optimum: float | None = None) -> "Comparison":
        """Summarise runs, random search among them; the least regret comes first."""
        done = tuple(done)
        by_strategy = {run.strategy: [other for other in done if other.strategy == run.strategy] for run in done}
        accuracies = {name: np.array([run.accuracy[-1] for run in of]) for name, of in by_strategy.items()}
        best_known = max(float(values.max()) for values in accuracies.values()) if optimum is None else optimum
        summaries = (
            Summary(
                strategy=name,
                accuracies=tuple(accuracies[name].tolist()),
                mean=float(accuracies[name].mean()),
                deviation=float(accuracies[name].std(ddof=1)) if len(of) > 1 else 0.0,
                regret=float(best_known - accuracies[name].mean()),
                p_value=None if name == BASELINE else rank_sum_p_value(accuracies[name], accuracies[BASELINE]),
                evaluations=float(np.mean([run.evaluations[-1] for run in of])),
                seconds=float(np.mean([run.seconds for run in of])),
            )
            for name, of in by_strategy.items()
        )
        return cls(done, best_known, tuple(sorted(summaries, key=lambda summary: summary.regret)))

    def curves(self, evaluations: NDArray[np.int64]) -> dict[str, Floats]:
        """Per strategy, (S, N) the best predicted accuracy of each seed after so many evaluations (N,)."""
        names = [summary.strategy for summary in self.summaries]
        return {name: np.stack([run.at(evaluations) for run in self.runs if run.strategy == name]) for name in names}
