"""Strategies compared at equal evaluations, over several seeds, against random search (arXiv:1902.07638).

Every strategy gets the same problem, the same number of evaluations and the same seeds, and its own predictions count.
Random search, the baseline of that paper, never ends with the local search.
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

    best: (G,) the best genome. evaluations, accuracy: (T,) the number of predictions made after each generation, and
    the best of them. seconds: the search's duration.
    """

    strategy: str
    seed: int
    best: Genomes
    evaluations: NDArray[np.int64]
    accuracy: Floats
    seconds: float

    def at(self, evaluations: NDArray[np.int64]) -> Floats:
        """(N,) the best predicted accuracy after (N,) evaluations; nan before the end of the first generation."""
        last = np.searchsorted(self.evaluations, evaluations, side="right") - 1
        return np.where(last < 0, np.nan, self.accuracy[last])


def run_strategies(
    problem: Problem, strategies: Sequence[str], *, evaluations: int, seeds: int, local_search: bool = True
) -> Iterator[Run]:
    """Search with every strategy and seed. All strategies run one seed before the next: a machine's speed drifts.

    Raises:
        ValueError: the problem's objective is not accuracy. Also what `Search` raises.
    """
    if problem.minimise or problem.pareto:
        raise ValueError("strategies are compared by the accuracy that they reach; leave the other objectives out")
    for seed in range(seeds):
        for strategy in strategies:
            polish = local_search and strategy != BASELINE
            started = time.perf_counter()
            search = Search(problem, strategy=strategy, evaluations=evaluations, seed=seed, polish=polish)
            steps = [(progress.evaluations, progress.accuracy) for progress in search.run()]
            seconds = time.perf_counter() - started
            counts, accuracy = zip(*steps, strict=True)
            yield Run(strategy, seed, search.result().best, np.array(counts), np.array(accuracy), seconds)


@dataclass(frozen=True, slots=True)
class Summary:
    """One strategy's results over S seeds.

    accuracies: (S,) predicted, of the best architecture of each search. regret: the mean distance to the best known.
    p_value: of the hypothesis that the strategy is no better than random search, by an exact one-sided Mann-Whitney U
    test; None for random search itself. evaluations, seconds: means.
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
    """Runs and their summaries. best_known: the highest predicted accuracy of any run, or the optimum if known."""

    runs: tuple[Run, ...]
    best_known: float
    summaries: tuple[Summary, ...]

    @classmethod
    def from_runs(cls, done: Iterable[Run], optimum: float | None = None) -> "Comparison":
        """Summarise runs; random search must be among them. The summary of lowest regret comes first."""
        done = tuple(done)
        by_strategy: dict[str, list[Run]] = {}
        for run in done:
            by_strategy.setdefault(run.strategy, []).append(run)
        accuracies = {name: np.array([run.accuracy[-1] for run in group]) for name, group in by_strategy.items()}
        best_known = max(float(values.max()) for values in accuracies.values()) if optimum is None else optimum
        summaries = (
            Summary(
                strategy=name,
                accuracies=tuple(accuracies[name].tolist()),
                mean=float(accuracies[name].mean()),
                deviation=float(accuracies[name].std(ddof=1)) if len(group) > 1 else 0.0,
                regret=float(best_known - accuracies[name].mean()),
                p_value=None if name == BASELINE else rank_sum_p_value(accuracies[name], accuracies[BASELINE]),
                evaluations=float(np.mean([run.evaluations[-1] for run in group])),
                seconds=float(np.mean([run.seconds for run in group])),
            )
            for name, group in by_strategy.items()
        )
        return cls(done, best_known, tuple(sorted(summaries, key=lambda summary: summary.regret)))

    def curves(self, evaluations: NDArray[np.int64]) -> dict[str, Floats]:
        """By strategy, (S, N) the best predicted accuracy of each seed after (N,) evaluations."""
        names = [summary.strategy for summary in self.summaries]
        return {name: np.stack([run.at(evaluations) for run in self.runs if run.strategy == name]) for name in names}
