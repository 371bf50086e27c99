"""The default search at a limit of every millisecond: `python -m benchmarks.every_limit BUNDLE DEVICE`.

BUNDLE: as for `benchmarks.ofa_search`. At each limit several seeds search by default, and the table shows how far they
end from the best architecture known: the best of every_limit.json and of these searches, which writes what is better
there. `--improve SEARCHES` only improves these by so many searches at each limit from other seeds, half of which start
from the best known at all limits.

`--files FOLDER` runs the tutorial's finder, too, at `--tutorial-limits`, in turns with the default search.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.ofa_search import Found, peers, run_peer
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem
from evolution.search import Search, SearchResult
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle
from supernet.files import write_atomically
from supernet.space import Architecture, Genomes

BEST_KNOWN = Path(__file__).with_suffix(".json")
LIMITS = range(14, 71)  # ms
TUTORIAL_LIMITS = (16, 22, 28, 35, 50, 60)  # it takes limits from 15 to 60 ms
MEAN_TARGET, WORST_TARGET, TIMES_TARGET = 0.0007, 0.003, 20
SEED = 1_000  # of the long searches: none of the table's


class Task:
    """The space, predictor and latencies of a bundle, and the best architecture known at each limit."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        assert bundle.predictor_path is not None
        self.tables = CostTables(bundle.space)
        self.predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
        self.latency = {device: load_latency_model(bundle, self.tables, device)}
        self.device = device
        self.best: dict[int, Genomes] = {}
        if BEST_KNOWN.exists():
            for row in json.loads(BEST_KNOWN.read_text())["limits"]:
                genome = bundle.space.encode(Architecture.from_json(row["arch"]))
                assert self.problem(row["max_latency_ms"]).within(genome[None]).all(), row
                self.best[row["max_latency_ms"]] = genome

    def problem(self, limit: float) -> Problem:
        """The most accurate architecture within a latency, ms."""
        limits = [Limit("latency_ms", limit, self.device)]
        return Problem(self.tables, self.predictor, constrain(limits, self.tables, self.latency))

    def accuracy(self, limit: int) -> float:
        """The predicted top-1 of the best known."""
        return float(self.predictor.predict(self.best[limit][None])[0])

    def search(self, limit: int, seed: int) -> tuple[SearchResult, float]:
        """A search by default, and its seconds."""
        started = time.perf_counter()
        result = Search(self.problem(limit), strategy="evolution", seed=seed).run_to_end()
        return result, time.perf_counter() - started

    def improve(self, limit: int, searches: int) -> None:
        """Search at a limit, every second time from the best known at all limits."""
        for number in range(searches):
            warm_start = np.array([*self.best.values()], np.int8) if number % 2 and self.best else None
            problem, seed = self.problem(limit), SEED + number
            self.learn(limit, Search(problem, strategy="evolution", seed=seed, warm_start=warm_start).run_to_end())

    def learn(self, limit: int, result: SearchResult) -> None:
        """Keep what a search found, if it is better than the best known."""
        if limit not in self.best or result.accuracy > self.accuracy(limit):
            self.best[limit] = result.best

    def save(self) -> None:
        """Write the best known."""
        rows = [
            {
                "max_latency_ms": limit,
                "predicted_top1": self.accuracy(limit),
                "arch": self.tables.space.decode(self.best[limit]).to_json(),
            }
            for limit in sorted(self.best)
        ]
        what = "The best architectures known on Once-for-All's space by its predictor, within its Note10 latencies."
        write_atomically(BEST_KNOWN, (json.dumps({"what": what, "limits": rows}, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("device")
    parser.add_argument("--improve", type=int, metavar="SEARCHES")
    parser.add_argument("--limits", type=int, nargs="+", default=LIMITS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--files", type=Path, help="acc_predictor.pth and the tables, as for benchmarks.ofa_search")
    parser.add_argument("--tutorial-limits", type=int, nargs="+", default=TUTORIAL_LIMITS)
    options = parser.parse_args()
    task = Task(Bundle.open(options.bundle), options.device)
    if options.improve:
        for limit in options.limits:
            before = task.accuracy(limit) if limit in task.best else 0.0
            task.improve(limit, options.improve)
            print(f"{limit} ms: {task.accuracy(limit) - before:+.6f}, now {task.accuracy(limit):.6f}", flush=True)
            task.save()
        return
    tutorial = peers(options.files)["tutorial"] if options.files else None
    task.search(LIMITS[0], 0)  # the tables are built with the first
    distances, endings = [], Counter[str]()
    print(f"{options.seeds} seeds; distances of the predicted top-1 to the best known")
    for limit in options.limits:
        done = [task.search(limit, seed) for seed in range(options.seeds)]
        for result, _ in done:
            task.learn(limit, result)
        best = task.accuracy(limit)
        here = [best - result.accuracy for result, _ in done]
        distances += here
        endings.update(str(result.ended_by) for result, _ in done)
        seconds = median(seconds for _, seconds in done)
        evaluations = median(result.evaluations for result, _ in done)
        print(
            f"{limit} ms: best known {best:.6f}; mean {mean(here):.6f}, median {median(here):.6f}, worst "
            f"{max(here):.6f}; {evaluations:,.0f} evaluations, {1000 * seconds:,.0f} ms",
            flush=True,
        )
        if tutorial is not None and limit in options.tutorial_limits:
            peer = _beside(run_peer(tutorial, limit, 0), best - median(here), seconds)
            print(f"  tutorial's finder: {peer}", flush=True)
        task.save()
    print(f"all: mean {mean(distances):.6f} (target {MEAN_TARGET}), worst {max(distances):.6f} (target {WORST_TARGET})")
    print("ended by: " + ", ".join(f"{ending} {count}" for ending, count in endings.most_common()))


def _beside(peer: Found, accuracy: float, seconds: float) -> str:
    found, took = peer
    verdict = "above" if accuracy > found else "BELOW"
    return (
        f"{found:.6f}, our median {accuracy - found:+.6f} ({verdict}); {took:.1f} s, {took / seconds:.0f} times as "
        f"long as ours (target {TIMES_TARGET})"
    )


if __name__ == "__main__":
    main()
