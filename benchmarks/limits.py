"""Hard limits, many at once, on Once-for-All's space: `python -m benchmarks.limits [BUNDLE] --count 100000`.

Every budget limits one to four of FLOPs, parameters, bytes of the file, peak memory and the latency on each device,
each somewhere between its floor and what the largest architecture costs; some are 0.1 % above the floor. A search of
300 evaluations follows, and everything it evaluated is costed again and compared with the limits. Devices are those of
the bundle and two with random block times; without a bundle, accuracy is a random additive function.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolution.costs import AdditiveCost, Cost, CostTables
from evolution.limits import Constraint
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Predictor, Problem
from evolution.refusal import NotProven, Refused
from evolution.search import Search
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle
from supernet.families import preset
from supernet.operators import flat
from supernet.space import Genomes

EVALUATIONS = 300
TIGHT = 0.1  # the share of limits that are 0.1 % above the floor
CHUNK = 50  # budgets a process takes at a time


@dataclass(frozen=True)
class RandomAccuracy:
    """A logistic function of a sum over genes, that grows with most of them."""

    weights: np.ndarray

    def predict(self, genomes: Genomes) -> np.ndarray:
        """(N,) fractions."""
        return np.asarray(1 / (1 + np.exp(-(genomes @ self.weights))))


@dataclass(frozen=True)
class Field:
    """What budgets are drawn over. least, most: of each cost, its floor and what the largest architecture costs."""

    tables: CostTables
    predictor: Predictor
    costs: Mapping[str, Cost]
    least: Mapping[str, float]
    most: Mapping[str, float]

    @classmethod
    def of(cls, path: Path | None) -> "Field":
        """Of a bundle, or of the preset alone."""
        rng = np.random.default_rng(0)
        predictor: Predictor
        latency: dict[str, Cost] = {}
        if path is None:
            tables = CostTables(preset("mbv3-imagenet-w1.2"))
            predictor = RandomAccuracy(rng.normal(0.4, 0.5, tables.space.num_genes) / tables.space.num_genes**0.5)
        else:
            bundle = Bundle.open(path)
            assert bundle.predictor_path is not None
            tables = CostTables(bundle.space, bundle.classes)
            predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
            for device in bundle.devices:
                name = f"latency_ms@{device}"
                latency[name] = load_latency_model(bundle, tables, device).cost(name)
        for device in ("random-1", "random-2"):
            latency[f"latency_ms@{device}"] = _random_device(tables, f"latency_ms@{device}", rng)
        counted = (tables.flops_cost, tables.params_cost, tables.model_bytes_cost, tables.peak_memory_cost)
        costs: dict[str, Cost] = {**{cost.name: cost for cost in counted}, **latency}
        largest = np.tile((tables.space.num_choices - 1).astype(np.int8), (len(tables.space.resolutions), 1))
        largest[:, 0] = np.arange(len(largest))
        ends = {name: cost(largest) for name, cost in costs.items()}
        return cls(
            tables,
            predictor,
            costs,
            {name: float(cost.floors.min()) for name, cost in costs.items()},
            {name: float(end[np.isfinite(end)].max()) for name, end in ends.items()},
        )

    def budget(self, rng: np.random.Generator) -> dict[str, float]:
        """One to four limits."""
        names = rng.choice(list(self.costs), rng.integers(1, 5), replace=False)
        spans = {name: self.most[name] / self.least[name] for name in names}
        tight = rng.random(len(names)) < TIGHT
        shares = np.where(tight, 0.0, rng.random(len(names)))
        return {
            name: self.least[name] * (1.001 if tight[i] else float(spans[name] ** shares[i]))
            for i, name in enumerate(names)
        }


def _random_device(tables: CostTables, name: str, rng: np.random.Generator) -> AdditiveCost:
    """A device whose blocks take a time of their own beside that for their multiply-adds."""
    by_key = {
        key: 0.1 * rng.lognormal(0, 0.5) + sum(record.flops for record in flat(records)) / 2e7 * rng.lognormal(0, 0.5)
        for key, records in zip(tables.block_keys, tables.operators, strict=True)
        if key is not None
    }
    return AdditiveCost(tables, name, tables.block_values(by_key))


field: Field


def _begin(path: Path | None) -> None:
    global field
    field = Field.of(path)


def ask(numbers: range) -> tuple[Counter[str], float, float]:
    """What became of the budgets of these numbers, and the longest search and the longest refusal, s."""
    became: Counter[str] = Counter()
    longest = refused = 0.0
    for number in numbers:
        most = field.budget(np.random.default_rng(number))
        constraints = tuple(Constraint(field.costs[name], value) for name, value in most.items())
        started = time.perf_counter()
        try:
            search = Search(Problem(field.tables, field.predictor, constraints), evaluations=EVALUATIONS, seed=number)
        except Refused as refusal:
            refused = max(refused, time.perf_counter() - started)
            became["not proven" if isinstance(refusal, NotProven) else "infeasible"] += 1
            continue
        for _ in search.run():
            pass
        longest = max(longest, time.perf_counter() - started)
        seen = search.result().evaluated.genomes
        became["answered"] += 1
        became["violations"] += any((field.costs[name](seen) > value).any() for name, value in most.items())
        became["over budget"] += search.evaluations > EVALUATIONS
    return became, longest, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    chunks = [range(start, min(start + CHUNK, options.count)) for start in range(0, options.count, CHUNK)]
    became: Counter[str] = Counter()
    longest = refused = 0.0
    started = time.perf_counter()
    with ProcessPoolExecutor(options.processes, initializer=_begin, initargs=(options.bundle,)) as pool:
        for some, searched, refusing in pool.map(ask, chunks):
            became.update(some)
            longest, refused = max(longest, searched), max(refused, refusing)
    seconds = time.perf_counter() - started
    print(f"{options.count:,} budgets of 1 to 4 limits, {EVALUATIONS} evaluations each: {seconds:.0f} s")
    print(f"answered: {became['answered']:,}, of these {became['violations']} with anything outside a limit")
    print(f"refused: {became['infeasible']:,} proven infeasible, {became['not proven']:,} not proven")
    print(f"longest search {1e3 * longest:.0f} ms, longest refusal {1e3 * refused:.0f} ms")
    sys.exit(1 if became["violations"] or became["over budget"] else 0)


if __name__ == "__main__":
    main()
