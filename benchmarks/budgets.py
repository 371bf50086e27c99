"""Hard limits, checked by force: `python -m benchmarks.budgets BUNDLE MEASUREMENTS`.

Random budgets on latency, FLOPs and parameters of a real bundle on a measured device. A feasible budget is one that a
sampled architecture meets, with no room or up to 20 % of it; an infeasible one has a limit below its cost's least value
over a million samples and the smallest architecture, and the floor in the refusal is compared with that least value. On
the digits space so many samples cover every subnet of least depth. The first feasible budgets are asked twice.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem
from evolution.refusal import Infeasible, Refused
from evolution.search import Search, SearchResult
from service.devices.measurements import fit_measurements_file
from supernet.bundle import Bundle

COSTS = ("latency_ms", "flops", "params")
EVALUATIONS = 2_000
SAMPLES = 1_000_000
REPEATED = 20


class Asker:
    """Asks one bundle and device; counts nothing, remembers nothing."""

    def __init__(self, bundle: Bundle, measurements: Path) -> None:
        assert bundle.predictor_path is not None
        self.tables = CostTables(bundle.space)
        self.predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
        self.models = {"device": fit_measurements_file(self.tables, measurements)}

    def costs(self, genomes: np.ndarray) -> np.ndarray:
        """(N, 3) in the order of `COSTS`."""
        latency = self.models["device"].predict(genomes)
        return np.stack([latency, self.tables.flops(genomes), self.tables.params(genomes)], axis=1)

    def ask(self, limits: dict[str, float], seed: int) -> SearchResult:
        """The answer, or `Refused` raised."""
        wanted = [Limit(cost, most, "device" if cost == "latency_ms" else None) for cost, most in limits.items()]
        constraints = constrain(wanted, self.tables, self.models)
        search = Search(Problem(self.tables, self.predictor, constraints), evaluations=EVALUATIONS, seed=seed)
        for _ in search.run():
            pass
        return search.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--feasible", type=int, default=200)
    parser.add_argument("--infeasible", type=int, default=50)
    options = parser.parse_args()
    asker = Asker(Bundle.open(options.bundle), options.measurements)
    rng = np.random.default_rng(0)
    space = asker.tables.space

    answered = violations = different = 0
    times = []
    for number, genome in enumerate(space.sample(rng, options.feasible)):
        slack = 1 + 0.2 * rng.random(len(COSTS))  # some budgets are exact, none leaves its own witness out
        chosen = [i for i in range(len(COSTS)) if rng.random() < 0.7] or [0]
        values = asker.costs(genome[None])[0] * np.where(rng.random(len(COSTS)) < 0.3, 1.0, slack)
        limits = {COSTS[i]: float(values[i]) for i in chosen}
        started = time.perf_counter()
        try:
            result = asker.ask(limits, seed=number)
        except Refused:
            continue
        times.append(time.perf_counter() - started)
        answered += 1
        reached = dict(zip(COSTS, asker.costs(result.best[None])[0], strict=True))
        violations += any(reached[cost] > most for cost, most in limits.items())
        if number < REPEATED:
            different += not np.array_equal(asker.ask(limits, seed=number).best, result.best)

    genomes = np.concatenate([space.sample(rng, SAMPLES), np.stack([space.encode(space.smallest())])])
    least = asker.costs(genomes).min(axis=0)
    refused = wrong_floors = 0
    for _ in range(options.infeasible):
        chosen = [i for i in range(len(COSTS)) if rng.random() < 0.5] or [int(rng.integers(len(COSTS)))]
        limits = {COSTS[i]: float(least[i] * rng.uniform(0.3, 0.999)) for i in chosen}
        try:
            asker.ask(limits, seed=0)
        except Infeasible as refusal:
            refused += 1
            expected = {name: least[COSTS.index(name.split("@")[0])] for name in refusal.floors}
            wrong_floors += sum(not np.isclose(refusal.floors[name], expected[name], rtol=1e-9) for name in expected)

    print(f"feasible budgets: {answered} of {options.feasible} answered, {violations} outside a limit")
    print(f"the same seed again: {different} of {min(REPEATED, options.feasible)} different")
    print(f"infeasible budgets: {refused} of {options.infeasible} refused, {wrong_floors} floors not the least seen")
    print(f"median of a search of at most {EVALUATIONS:,} evaluations: {1e3 * float(np.median(times)):.0f} ms")
    ok = answered == options.feasible and refused == options.infeasible
    sys.exit(0 if ok and not violations and not different and not wrong_floors else 1)


if __name__ == "__main__":
    main()
