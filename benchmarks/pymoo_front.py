"""Fronts of accuracy and latency beside pymoo's NSGA-II: `python -m benchmarks.pymoo_front BUNDLE DEVICE`.

BUNDLE: as `supple import-ofa --predictor ... --latency-tables ... --device DEVICE` writes it. Needs pymoo
(`pip install '.[benchmarks]'`).

pymoo's NSGA-II has a population of 100 and 500 generations, 50,000 evaluations, and the operators that its
documentation gives for integers. Both search the same genes with the same predictor and tables, score a population at
once, and run in turns. A hypervolume is divided by the range of latency, from the least of any architecture to that of
the largest: it is then the mean accuracy over all latency budgets. pymoo is also given the front of everything that it
evaluated, since its own answer is the last population.
"""

import argparse
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.functions import is_compiled
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import hypervolumes
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.validation import rank_sum_p_value
from evolution.problem import Problem
from evolution.search import solve
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle

POPULATION = 100


class TwoObjectives(PymooProblem):
    """Error and latency of genomes as pymoo asks for them. asked: the objectives of everything evaluated."""

    def __init__(self, problem: Problem) -> None:
        least = np.zeros(problem.tables.space.num_genes, int)
        least[0] = np.flatnonzero(problem.region.anchored).min()  # the measured resolutions are the largest ones
        super().__init__(n_var=len(least), n_obj=2, xl=least, xu=problem.tables.space.num_choices - 1, vtype=int)
        self.problem = problem
        self.asked: list[Floats] = []

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        genomes = x.astype(np.int8)
        accuracy, latency = self.problem.predictor.predict(genomes), self.problem.pareto[0](genomes)
        out["F"] = np.column_stack([1 - accuracy, latency])
        self.asked.append(out["F"])


def pymoo(problem: Problem, generations: int, seed: int) -> tuple[Floats, Floats, float]:
    """The objectives of its answer and of everything evaluated, (K, 2) and (N, 2), and seconds."""
    asked = TwoObjectives(problem)
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    started = time.perf_counter()
    answer = minimize(asked, algorithm, ("n_gen", generations), seed=seed)
    seconds = time.perf_counter() - started
    return answer.F, np.concatenate(asked.asked), seconds


def ours(problem: Problem, evaluations: int, seed: int) -> tuple[Floats, float]:
    """The objectives of our answer, (K, 2), and seconds."""
    started = time.perf_counter()
    result = solve(problem, evaluations=evaluations, seed=seed)
    seconds = time.perf_counter() - started
    assert result.evaluations <= evaluations
    return result.front.objectives, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("device")
    parser.add_argument("--generations", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    assert bundle.predictor_path is not None
    tables = CostTables(bundle.space)
    latency = load_latency_model(bundle, tables, options.device).cost("latency_ms")
    predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    evaluations = POPULATION * options.generations
    volumes: dict[str, list[float]] = {"ours": [], "pymoo": [], "pymoo, everything evaluated": []}
    seconds: dict[str, list[float]] = {"ours": [], "pymoo": []}

    for seed in range(options.seeds):
        problem = Problem(tables, predictor, pareto=(latency,))
        span = problem.reference[1] - latency.floors.min()
        front, took = ours(problem, evaluations, seed)
        answer, everything, theirs = pymoo(problem, options.generations, seed)
        assert len(everything) == evaluations
        seconds["ours"].append(took)
        seconds["pymoo"].append(theirs)
        for name, objectives in zip(volumes, (front, answer, everything), strict=True):
            volumes[name].append(float(hypervolumes(objectives, [len(objectives)], problem.reference)[0] / span))

    print(f"{evaluations:,} evaluations, {options.seeds} seeds, pymoo {'' if is_compiled() else 'not '}compiled")
    for name, values in volumes.items():
        took_text = f", {mean(seconds[name]):.2f} s" if name in seconds else ""
        print(f"{name}: hypervolume mean {mean(values):.5f}, deviation {stdev(values):.5f}{took_text}")
    p_value = rank_sum_p_value(np.array(volumes["ours"]), np.array(volumes["pymoo, everything evaluated"]))
    print(f"no better than everything pymoo evaluated: p = {p_value:.1e} (exact one-sided Mann-Whitney U)")
    better = mean(volumes["ours"]) >= max(mean(values) for values in volumes.values())
    faster = mean(seconds["ours"]) < mean(seconds["pymoo"])
    print(f"no smaller in the mean: {'yes' if better else 'NO'}; in less time: {'yes' if faster else 'NO'}")


if __name__ == "__main__":
    main()
