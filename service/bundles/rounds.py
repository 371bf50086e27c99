"""Choosing which subnets to measure next: those where a search would end by the predictor so far.

Each round fits a Gaussian process to all pairs measured so far, searches the front of accuracy and FLOPs with it, and
chooses architectures on that front, near it, and near it where the process is least sure. This is the idea of LINAS
(DyNAS-T, arXiv:2205.10358), whose predictor knows nothing of its uncertainty. A Gaussian process chooses whatever the
kind of the predictor that is fitted in the end, so that all kinds share their pairs.
"""

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import dominance_ranks
from evolution.predictors import fitting
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.features import one_hot
from evolution.problem import Problem
from evolution.search import solve
from service.bundles.pairs import spread
from supernet.space import Genomes, SearchSpace

EVALUATIONS = 6_000  # by prediction, in a round's search
LEAST_SURE = 0.25  # of a round: chosen by standard deviation instead of by rank
NEAR = 10  # times as many architectures as a round measures are near the front


def choose_round(
    space: SearchSpace,
    genomes: Genomes,
    accuracy: Floats,
    log_likelihood: Floats,
    count: int,
    rng: np.random.Generator,
) -> Genomes:
    """(at most count, G) the architectures to measure next, spread over FLOPs.

    genomes: (N, G) measured so far, with (N,) accuracies and (N,) log-likelihoods.
    """
    pairs = fitting.Pairs.checked(space, genomes, accuracy, log_likelihood)
    model, link = pairs.fit("kernel", np.arange(len(pairs)), rng)
    predictor, tables = AccuracyPredictor(space, model, link, {}), CostTables(space)
    problem = Problem(tables, predictor, pareto=(tables.flops_cost,))
    seed = int(rng.integers(2**32))
    evaluated = solve(problem, strategy="nsga2", evaluations=EVALUATIONS, seed=seed, warm_start=genomes).evaluated
    measured = {genome.tobytes() for genome in genomes}
    fresh = np.array([genome.tobytes() not in measured for genome in evaluated.genomes])
    pool: Genomes = evaluated.genomes[fresh]
    flops: Floats = evaluated.costs[fresh, 0]
    if not len(pool):
        return pool
    ranks = dominance_ranks(np.stack([flops, -predictor.score(pool)], axis=1))
    near = np.argsort(ranks, kind="stable")[: NEAR * count]
    by_rank = near[spread(flops[near], count - int(LEAST_SURE * count))]
    rest = np.setdiff1d(near, by_rank)
    if len(rest):
        rest = rest[np.argsort(-model.score_std(one_hot(space, pool[rest])), kind="stable")]
        rest = rest[spread(flops[rest], count - len(by_rank))]
    chosen: Genomes = pool[np.concatenate([by_rank, rest])]
    return chosen
