"""Which subnets to fit the accuracy predictor on: `python -m benchmarks.pairs BUNDLE [--subnets 120]`.

Fits it on pairs stratified over FLOPs and on uniformly drawn ones, equally many, and shows its error on others of both
kinds and near the front. Twice as many of each kind are measured, of which random halves are fitted on and tested on.
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import dominance_ranks
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.validation import kendall_tau
from service.bundles.pairs import stratified
from service.searches.inherited import measure_subnets
from supernet.bundle import Bundle
from supernet.space import Genomes

HALVINGS = 10
Pairs = tuple[Genomes, Floats, Floats]  # (N, G) genomes, (N,) accuracies, (N,) mean log-likelihoods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--subnets", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle, count, rng = Bundle.open(options.bundle), 2 * options.subnets, np.random.default_rng(0)
    space = bundle.space
    kinds = {
        name: pairs_of(bundle, genomes)
        for name, genomes in (("stratified", stratified(space, rng, count)), ("uniform", space.sample(rng, count)))
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(HALVINGS):
        halves = {name: np.split(rng.permutation(count), 2) for name in kinds}
        everything = joined([taken(kinds[name], halves[name][1]) for name in kinds])
        ranks = dominance_ranks(np.stack([CostTables(space).flops(everything[0]), -everything[2]], axis=1))
        tested = {name: taken(kinds[name], halves[name][1]) for name in kinds}
        tested["near the front"] = taken(everything, np.argsort(ranks, kind="stable")[: len(ranks) // 4])
        for name, pairs in kinds.items():
            predictor = AccuracyPredictor.fit(space, *taken(pairs, halves[name][0]), rng)
            for test, (genomes, accuracy, log_likelihood) in tested.items():
                error = float(np.sqrt(np.mean((predictor.predict(genomes) - accuracy) ** 2)))
                tau = kendall_tau(predictor.score(genomes), log_likelihood) or 0.0
                found.setdefault((name, test), []).append((error, tau))
    for (name, test), errors in found.items():
        rmse, tau = (mean(column) for column in zip(*errors, strict=True))
        print(f"fitted on {count // 2} {name:10}, tested on {test:14}  RMSE {rmse:.2%}  Kendall tau {tau:.3f}")


def pairs_of(bundle: Bundle, genomes: Genomes) -> Pairs:
    scores = np.empty((len(genomes), 2))
    for number, scored in measure_subnets(bundle.evaluator(), bundle.space, genomes):
        scores[number] = scored.accuracy, scored.log_likelihood
    return genomes, scores[:, 0], scores[:, 1]


def taken(pairs: Pairs, which: np.ndarray) -> Pairs:
    genomes, accuracy, log_likelihood = pairs
    return genomes[which], accuracy[which], log_likelihood[which]


def joined(parts: list[Pairs]) -> Pairs:
    genomes, accuracies, log_likelihoods = zip(*parts, strict=True)
    return np.concatenate(genomes), np.concatenate(accuracies), np.concatenate(log_likelihoods)


if __name__ == "__main__":
    main()
