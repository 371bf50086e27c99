"""What searching costs: `python -m benchmarks.search_cost BUNDLE DEVICE`, with BUNDLE as `supple import-ofa` writes it.

First, predicting architectures beside the same matrix products alone, in numpy on one-hot features that are ready, in
turns. Then the time and memory of searches from 1,000 to 1,000,000 evaluations, each in a process of its own.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.features import one_hot
from evolution.predictors.layers import Layers
from evolution.problem import Problem
from evolution.search import Search
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle

ARCHITECTURES = (100, 1_000, 10_000, 100_000)
EVALUATIONS = (1_000, 10_000, 100_000, 1_000_000)
TURNS = 15


def predictions(bundle: Bundle) -> None:
    """Print the time of `predict` per architecture, and how many times that of its matrix products it is."""
    assert bundle.predictor_path is not None
    predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    assert isinstance(predictor.model, Layers), "Once-for-All's predictor has layers"
    layers = predictor.model.layers
    for count in ARCHITECTURES:
        genomes = bundle.space.sample(np.random.default_rng(0), count)
        features = one_hot(bundle.space, genomes)

        def products(features: np.ndarray = features) -> None:
            for start in range(0, len(features), 8192):
                values = features[start : start + 8192]
                for weight, _ in layers:
                    values = values @ weight

        def predict(genomes: np.ndarray = genomes) -> None:
            predictor.predict(genomes)

        pairs = [(_seconds(predict), _seconds(products)) for _ in range(TURNS)]
        own, floor = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        print(
            f"{count:>9,} architectures: {own / count * 1e6:.2f} us each, products alone {floor / count * 1e6:.2f} us"
        )
        print(f"{'':>9} ratio {ratio:.2f}")


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def search(path: Path, device: str, evaluations: int) -> tuple[int, float, int]:
    """A search under 30 ms in this process: its evaluations, seconds, and by how many bytes memory grew at most."""
    bundle = Bundle.open(path)
    assert bundle.predictor_path is not None
    tables, predictor = CostTables(bundle.space), AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    limits = [Limit("latency_ms", 30, device)]
    latency_models = {device: load_latency_model(bundle, tables, device)}
    problem = Problem(tables, predictor, constrain(limits, tables, latency_models))
    for _ in Search(problem, evaluations=200).run():  # the tables are built with the first
        pass
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the maximum begins anew
    started = time.perf_counter()
    search = Search(problem, evaluations=evaluations)
    for _ in search.run():
        pass
    spent = search.result().evaluations
    seconds = time.perf_counter() - started
    return spent, seconds, _memory("VmHWM") - before


def _memory(name: str) -> int:
    """A line of this process's status, in bytes. On Linux only."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("device")
    options = parser.parse_args()
    predictions(Bundle.open(options.bundle))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for evaluations in EVALUATIONS:
            spent, seconds, grown = pool.apply(search, (options.bundle, options.device, evaluations))
            print(
                f"{spent:>9,} evaluations: {seconds:6.2f} s, {seconds / spent * 1e6:.1f} us each; memory grew by "
                f"{grown / 2**20:.0f} MiB, {grown / spent:.0f} bytes each"
            )


if __name__ == "__main__":
    main()
