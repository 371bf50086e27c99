"""Accuracy predictors on measured accuracies that others published: `python -m benchmarks.truths FILE`.

FILE: a CSV of subnets of Once-for-All's MobileNetV3 space with the columns `architecture` (our JSON) and
`top1_percent`, such as the 1,203 whose ImageNet accuracy IntelLabs' DyNAS-T publishes. An architecture measured more
than once counts once, with its mean. For each number of pairs, ten random sets are fitted on and all other pairs are
predicted. The best quarter is by measured accuracy. Then the time of `predict` with a kernel on the most pairs, beside
its matrix products alone, in turns.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from evolution.arrays import Floats
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.features import one_hot
from evolution.predictors.fitting import KINDS, Kind
from evolution.predictors.kernel import CHUNK, Kernel
from evolution.predictors.validation import kendall_tau, spearman_rho
from supernet.families import preset
from supernet.space import Architecture, Genomes, SearchSpace

SPACE = "mbv3-imagenet-w1.0"
SIZES = (200, 500, 1_000)
SPLITS, MLP_SPLITS = 10, 2  # the MLP takes much longer
PREDICTED, TURNS = 6_000, 21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = preset(SPACE)
    genomes, accuracy = read_pairs(options.file, space)
    print(f"{len(genomes)} architectures; errors on the pairs left over, mean (and worst) of the splits")
    print("pairs  kind    splits  RMSE, points   tau, best     rho, best     within 95 % intervals    fit, seconds")
    with threadpool_limits(1, "blas"):
        for size in SIZES:
            for kind in KINDS:
                splits = range(MLP_SPLITS if kind == "mlp" else SPLITS)
                report(size, kind, [held_out_errors(space, genomes, accuracy, size, kind, seed) for seed in splits])
        time_predictions(space, genomes, accuracy)


def read_pairs(path: Path, space: SearchSpace) -> tuple[Genomes, Floats]:
    """(N, G) distinct genomes and their (N,) measured accuracies, fractions."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    architectures = [Architecture.from_json(json.loads(row["architecture"])) for row in rows]
    genomes, first = np.unique([space.encode(arch) for arch in architectures], axis=0, return_inverse=True)
    percent = np.array([float(row["top1_percent"]) for row in rows])
    return genomes, np.bincount(first, percent) / np.bincount(first) / 100


def held_out_errors(
    space: SearchSpace, genomes: Genomes, accuracy: Floats, size: int, kind: Kind, seed: int
) -> tuple[float, ...]:
    """RMSE in points, tau and rho in the best quarter, the share within 95 % intervals, and the seconds of the fit."""
    rng = np.random.default_rng(seed)
    seen, unseen = np.split(rng.permutation(len(genomes)), [size])
    started = time.perf_counter()
    predictor = AccuracyPredictor.fit(space, genomes[seen], accuracy[seen], None, rng, kind)
    seconds = time.perf_counter() - started
    measured, predicted = accuracy[unseen], predictor.predict(genomes[unseen])
    std = predictor.predict_std(genomes[unseen])
    assert std is not None, "a fitted predictor knows its errors"
    best = measured >= np.quantile(measured, 0.75)
    rmse = 100 * float(np.sqrt(np.mean((predicted - measured) ** 2)))
    tau, rho = (rank(predicted[best], measured[best]) or 0.0 for rank in (kendall_tau, spearman_rho))
    return rmse, tau, rho, float(np.mean(np.abs(predicted - measured) <= 1.96 * std)), seconds


def report(size: int, kind: Kind, errors: Sequence[tuple[float, ...]]) -> None:
    rmse, tau, rho, covered, seconds = zip(*errors, strict=True)
    ranks = "  ".join(f"{mean(values):.2f} ({min(values):.2f})  " for values in (tau, rho))
    share = f"{mean(covered):.1%} ({min(covered):.1%} to {max(covered):.1%})"
    rmses = f"{mean(rmse):.3f} ({max(rmse):.3f})"
    print(f"{size:5}  {kind:6}  {len(errors):6}  {rmses}  {ranks}  {share}  {mean(seconds):5.1f}", flush=True)


def time_predictions(space: SearchSpace, genomes: Genomes, accuracy: Floats) -> None:
    """Print how many times as long as its matrix products the prediction with the most pairs takes."""
    size = SIZES[-1]
    predictor = AccuracyPredictor.fit(space, genomes[:size], accuracy[:size], None, np.random.default_rng(0), "kernel")
    assert isinstance(predictor.model, Kernel)
    weights, exponents, _, amplitudes = predictor.model.products
    fresh = space.sample(np.random.default_rng(0), PREDICTED)
    features = one_hot(space, fresh)

    def products() -> None:
        for start in range(0, len(features), CHUNK):
            rows = features[start : start + CHUNK]
            _ = (rows @ exponents) @ amplitudes + rows @ weights

    turns = [(seconds(lambda: predictor.predict(fresh)), seconds(products)) for _ in range(TURNS)]
    own, floor = (median(column) / PREDICTED * 1e6 for column in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    print(f"predicting {PREDICTED:,} architectures, {size:,} pairs: {own:.1f} us each, products alone {floor:.1f} us")
    print(f"ratio, median of {TURNS} turns: {ratio:.2f}")


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
