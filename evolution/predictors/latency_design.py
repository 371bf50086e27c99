"""Which whole networks to measure, so that few tell most about the latencies of all others.

A Bayesian D-optimal design (K. Chaloner, I. Verdinelli, "Bayesian experimental design: a review", 1995): the networks
whose latencies, under the prior of a latency model that adds up over parts, have the largest determinant of their
covariance. Greedy, then improved by exchanges (V. Fedorov, "Theory of optimal experiments", 1972).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.latency_features import PartFeatures
from supernet.costs.tables import PartTables
from supernet.space import Genomes, SearchSpace

Rows = NDArray[np.intp]

POOL = 2_000  # sampled networks to choose from
CENTRAL = 0.6  # of the sampled networks, by expected latency
PASSES = 2  # of exchanges
NOISE = 0.03  # of a measurement, a fraction of it
# Standard deviations of the weights of each group before any measurement, relative to an average network's latency.
PRIOR: Mapping[str, float] = {
    "operations": 0.3,
    "work": 0.3,
    "part_time": 0.15,
    "part_work": 0.15,
    "variant_time": 0.05,
    "variant_work": 0.05,
}


def choose_networks(
    space: SearchSpace, count: int, seed: int, known: Genomes | None = None, pool: Genomes | None = None
) -> Genomes:
    """(count, G) distinct canonical genomes whose latencies tell most about all others, in the order chosen.

    A part of the list, from its start, is a good design too: `choose_networks(space, 20, 0)[:10]`.

    seed: draws the pool. known: (K, G) networks that are measured already; more of the same tell little, so they are
    not chosen again. pool: (N, G) networks to choose from; by default the central ones of 2,000 sampled ones.

    Raises:
        ValueError: `count` is below 1 or the pool has fewer networks.
    """
    measured = np.zeros((0, space.num_genes), np.int8) if known is None else space.canonical(known)
    if pool is None:
        pool = central_networks(space, space.sample(np.random.default_rng(seed), POOL))
    candidates = space.canonical(pool)
    candidates = _rows_once(candidates, without=measured)
    if not 1 <= count <= len(candidates):
        raise ValueError(f"{count} networks asked for; 1 to {len(candidates)} can be chosen")
    covariance = _prior_covariance(space, np.concatenate([measured, candidates]))
    known_rows = np.arange(len(measured))
    chosen = _greedy(covariance, known_rows, np.arange(len(measured), len(covariance)), count)
    chosen = _exchanged(covariance, known_rows, chosen)
    return candidates[_greedy(covariance, known_rows, chosen, count) - len(measured)]


def central_networks(space: SearchSpace, genomes: Genomes) -> Genomes:
    """The networks of neither extreme expected latency: the central 60 %, in their order.

    Designs prefer extremes. There, latencies add up least: a device that waits for launches of operators in small
    networks, and for memory in large ones, would teach a model of neither kind.
    """
    features = PartFeatures(PartTables(space))
    size = features.totals(features.size, genomes)
    low, high = np.quantile(size, [0.5 - CENTRAL / 2, 0.5 + CENTRAL / 2])
    central: Genomes = genomes[(size >= low) & (size <= high)]
    return central


def _rows_once(genomes: Genomes, without: Genomes) -> Genomes:
    """The distinct rows in their order, except those in `without`."""
    known = {row.tobytes() for row in without}
    first = {key: i for i, key in reversed([*enumerate(row.tobytes() for row in genomes)]) if key not in known}
    return genomes[sorted(first.values())]


def _prior_covariance(space: SearchSpace, genomes: Genomes) -> Floats:
    """(N, N) of the networks' latencies, each relative to its own expected latency."""
    features = PartFeatures(PartTables(space))
    expected = features.totals(features.size, genomes)
    columns = [deviation * features.totals(features.groups[name], genomes) for name, deviation in PRIOR.items()]
    relative = np.concatenate(columns, 1) / expected[:, None]
    covariance: Floats = relative @ relative.T
    return covariance


def _greedy(covariance: Floats, known: Rows, candidates: Rows, count: int) -> Rows:
    """`count` of the candidates: each has the largest variance, given the known ones and those before it."""
    variance = covariance.diagonal().copy()
    factor = np.zeros((len(known) + count, len(covariance)))
    left = np.zeros(len(covariance), bool)
    left[candidates] = True
    rows = known.tolist()
    for step in range(len(known) + count):
        if step >= len(known):
            rows.append(int(np.where(left, variance, -1).argmax()))
        row = rows[step]
        left[row] = False
        factor[step] = covariance[row] - factor[:step, row] @ factor[:step]
        factor[step] /= np.sqrt(variance[row] + NOISE**2)
        variance -= factor[step] ** 2
    return np.array(rows[len(known) :], np.intp)


def _exchanged(covariance: Floats, known: Rows, chosen: Rows) -> Rows:
    """Replace each chosen network by the best one, given all others, until none changes or for `PASSES` passes."""
    chosen = chosen.copy()
    for _ in range(PASSES):
        before = chosen.copy()
        for position, row in enumerate(before):
            others = np.concatenate([known, np.delete(chosen, position)])
            variance = _posterior_variance(covariance, others)
            variance[others] = -1
            best = variance.argmax()
            chosen[position] = best if variance[best] > variance[row] * (1 + 1e-9) else row
        if (chosen == before).all():
            break
    return chosen


def _posterior_variance(covariance: Floats, rows: Rows) -> Floats:
    """(N,) the variance of each network's latency after these are measured."""
    from scipy.linalg import solve_triangular

    own = covariance[np.ix_(rows, rows)] + NOISE**2 * np.eye(len(rows))
    explained = solve_triangular(np.linalg.cholesky(own), covariance[rows], lower=True)
    variance: Floats = covariance.diagonal() - (explained**2).sum(0)
    return variance
