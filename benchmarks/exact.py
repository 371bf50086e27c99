"""Exact search beside enumeration and the other strategies: `python -m benchmarks.exact BUNDLE [DEVICE]`.

BUNDLE: on the digits space, where all 2,187,000 subnets are enumerated, or on another space, such as the bundle that
`supple import-ofa` makes, where the other strategies are the measure. A predictor that is no sum over genes is replaced
by a ridge regression of what it predicts for `--pairs` random subnets.

Budgets are random: one to three limits, each between the floor of its cost and the largest subnet's. Seeds 1 and 2
chose the settings of the search, so report another one. Every search is timed in turns with the search by `evolution`
with 6,000 evaluations, in processor time; deciding whether the limits can be met is part of neither.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from evolution.problem import Problem
from evolution.refusal import Refused
from evolution.search import Search, SearchResult
from evolution.strategies.exact import find_obstacle
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle
from supernet.space import Genomes, SearchSpace

ENUMERATED = 20_000_000  # genomes, dropped genes included, up to which a space is enumerated
CHUNK = 200_000
OTHERS = ("nsga2", "reinforce", "random")  # beside evolution, on some of the budgets
EVERY = 10  # so many budgets are searched once with each of the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("device", nargs="?")
    parser.add_argument("--budgets", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    assert bundle.predictor_path is not None
    tables, rng = CostTables(bundle.space), np.random.default_rng(options.seed)
    predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    if find_obstacle(Problem(tables, predictor)):
        genomes = bundle.space.sample(np.random.default_rng(0), options.pairs)
        accuracy = predictor.predict(genomes)
        predictor = AccuracyPredictor.fit(bundle.space, genomes, accuracy, None, np.random.default_rng(0), "ridge")
    latency = {options.device: load_latency_model(bundle, tables, options.device)} if options.device else {}
    size = int(np.prod(bundle.space.num_choices, dtype=np.float64))
    everything = _Everything(tables, predictor, latency) if size <= ENUMERATED else None
    print(f"{bundle.space.name}, seed {options.seed}: {options.budgets} budgets of one to three limits")
    _compare(tables, predictor, latency, everything, options.budgets, rng)


def _compare(
    tables: CostTables,
    predictor: AccuracyPredictor,
    latency: dict[str, LatencyModel],
    everything: "_Everything | None",
    count: int,
    rng: np.random.Generator,
) -> None:
    lists: tuple[list[float], ...] = ([], [], [], [], [])
    (exact_seconds, evolution_seconds, gaps, gains, differences), refused = lists, 0
    other_gains: dict[str, list[float]] = {name: [] for name in OTHERS}
    while len(gaps) < count:
        limits = random_limits(tables, latency, 1 + len(gaps) % 3, rng)
        problem = Problem(tables, predictor, constrain(limits, tables, latency))
        try:
            problem.require_feasible()
        except Refused:
            refused += 1
            continue
        runs = {name: _timed(problem, name) for name in (("exact", "evolution"), ("evolution", "exact"))[len(gaps) % 2]}
        result, seconds = runs["exact"]
        assert result.optimality is not None
        assert problem.within(result.best[None]).all()
        exact_seconds.append(seconds)
        evolution_seconds.append(runs["evolution"][1])
        gains.append(result.accuracy - runs["evolution"][0].accuracy)
        if len(gaps) % EVERY == 0:
            for name in OTHERS:
                other_gains[name].append(result.accuracy - _timed(problem, name)[0].accuracy)
        if everything is not None:
            differences.append(everything.best(limits) - result.accuracy)
            assert everything.best(limits) <= result.optimality.bound + 1e-9
        gaps.append(result.optimality.gap)
    proven = sum(gap == 0 for gap in gaps)
    ratios = [a / b for a, b in zip(exact_seconds, evolution_seconds, strict=True)]
    print(f"  {refused} budgets that nothing fits were drawn anew")
    print(f"  proven: {proven} of {count}; largest gap {max(gaps):.6f}")
    if everything is not None:
        print(f"  against enumeration: largest difference {max(map(abs, differences)):.1e}")
    ours, theirs = ([1e3 * seconds for seconds in times] for times in (exact_seconds, evolution_seconds))
    print(
        f"  exact: median {median(ours):.0f} ms, largest {max(ours):.0f} ms; evolution: median {median(theirs):.0f} ms"
    )
    print(f"  ratio of the medians {median(ours) / median(theirs):.2f}, median of the ratios {median(ratios):.2f}")
    for name, values in {"evolution": gains, **other_gains}.items():
        print(f"  above {name}: {sum(gain > 1e-9 for gain in values)} of {len(values)}, by {median(values):.6f} in the "
              f"median; below: {sum(gain < -1e-9 for gain in values)}")  # fmt: skip


def _timed(problem: Problem, strategy: str) -> tuple[SearchResult, float]:
    """A search with the defaults, and its processor time in seconds. Finding the region is not part of it."""
    started = time.process_time()
    result = Search(problem, strategy=strategy, evaluations=6_000).run_to_end()
    return result, time.process_time() - started


def random_limits(
    tables: CostTables, latency: dict[str, LatencyModel], count: int, rng: np.random.Generator
) -> list[Limit]:
    """Limits on `count` different costs, each uniform between its floor and its ceiling."""
    available = [("flops", None), ("params", None), ("latency_ms", next(iter(latency), None))]
    if not latency:
        available[2] = ("model_bytes", None)
    limits = []
    for row in rng.permutation(3)[:count].tolist():
        name, device = available[row]
        cost = tables.cost(name) if device is None else latency[device].cost(Limit(name, 1.0, device).name, None)
        floor, ceiling = float(cost.floors.min()), cost.ceiling
        limits.append(Limit(name, floor + (ceiling - floor) * float(rng.uniform(0.001, 1)), device))
    return limits


class _Everything:
    """The predicted accuracy and the costs of every subnet of a space, the most accurate first."""

    def __init__(self, tables: CostTables, predictor: AccuracyPredictor, latency: dict[str, LatencyModel]) -> None:
        names = ["flops", "params", "model_bytes"]
        columns = [(name, tables.cost(name)) for name in names]
        for device, model in latency.items():
            columns.append((f"latency_ms@{device}", model.cost(f"latency_ms@{device}", None)))
        accuracy, costs = [], []
        for genomes in _enumerate(tables.space):
            accuracy.append(predictor.predict(genomes))
            costs.append(np.stack([cost(genomes) for _, cost in columns], axis=1))
        self._names = [name for name, _ in columns]
        order = np.argsort(-np.concatenate(accuracy), kind="stable")
        self._accuracy: Floats = np.concatenate(accuracy)[order]
        self._costs: Floats = np.concatenate(costs)[order]
        print(f"{len(order):,} subnets enumerated")

    def best(self, limits: list[Limit]) -> float:
        """The highest predicted accuracy within limits."""
        inside = np.ones(len(self._accuracy), bool)
        for limit in limits:
            inside &= self._costs[:, self._names.index(limit.name)] <= limit.max
        return float(self._accuracy[inside.argmax()])


def _enumerate(space: SearchSpace) -> Iterator[Genomes]:
    """Every canonical genome of a space, in chunks."""
    depths = range(space.depth_gene(0), space.depth_gene(len(space.depths)))
    head = [range(int(space.num_choices[gene])) for gene in range(space.depth_gene(len(space.depths)))]
    for values in product(*head):
        genome = np.zeros(space.num_genes, np.int8)
        genome[: len(values)] = values
        alive = [gene for gene in range(depths.stop, space.num_genes) if space.alive(genome)[gene]]
        grids = np.meshgrid(*(np.arange(space.num_choices[gene], dtype=np.int8) for gene in alive), indexing="ij")
        genomes = np.tile(genome, (grids[0].size if grids else 1, 1))
        for gene, grid in zip(alive, grids, strict=True):
            genomes[:, gene] = grid.ravel()
        yield from np.array_split(genomes, range(CHUNK, len(genomes), CHUNK))


if __name__ == "__main__":
    main()
