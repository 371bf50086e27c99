"""The time of every part of a network, from latencies of whole networks, by a hierarchical Bayesian regression.

    latency = expected + sum over parts of features[entry] @ weights + offset[resolution], times 1 + noise

The features are exact (`latency_features`); part times of known devices join them, each by its own weight. Weights are
normal around 0, with one standard deviation for each group of features. The standard deviations maximise the evidence
of the measurements (D. MacKay, "Bayesian interpolation", 1992) around values that suit most devices. So ten
measurements do not overfit, and hundreds teach every part its own time. Errors are relative, and wild measurements
count less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.latency_features import part_features
from supernet.space import Genomes

Rows = NDArray[np.intp]

# Standard deviations of the weights before any measurement, relative to the latency of an average network.
PRIOR: Mapping[str, float] = {
    "known_devices": 0.5,
    "operations": 0.3,
    "work": 0.3,
    "part_time": 0.15,
    "part_work": 0.15,
    "variant_time": 0.05,
    "variant_work": 0.05,
    "offset": 0.05,
    "resolution": 0.02,
}
BESIDE_KNOWN = 0.1  # of these deviations, beside known devices: these have taught most of it
NOISE = 0.05  # of a measurement, a fraction of it
TRUST = 2.0  # the standard deviation of the logarithms of the standard deviations and of the noise
LOG_BOUNDS = (-9.0, 2.0)  # of these logarithms
MAX_EVIDENCE = 200  # networks that the standard deviations are learned from, since that takes cubic time
STEPS = 60  # of L-BFGS
REWEIGHTINGS = 2  # of Huber's robust fit
HUBER = 1.345  # 95 % efficiency under normal errors; P. Huber, "Robust statistics" (1981)
LEAST_SPREAD = 1e-3  # of a known device's ratio to this one; anything smaller is luck
LEAST_SHARE = 0.01  # of the time expected of a part, or of an average part: no part takes less
MOST_NEGATIVE = 0.5  # of the fastest network's time in its parts: no offset takes away more


@dataclass(frozen=True, eq=False)
class Expected:
    """A latency model to correct. values: (F,) ms of each entry. scale, offset: (R,) by resolution, offsets in ms."""

    values: Floats
    scale: Floats
    offset: Floats

    @classmethod
    def nothing(cls, tables: CostTables) -> Self:
        """What is known of a device before any measurement."""
        count = len(tables.space.resolutions)
        return cls(np.zeros(tables.num_entries), np.ones(count), np.zeros(count))


@dataclass(frozen=True, eq=False)
class PartTimes:
    """A latency is `scale[r] * sum of values + offset[r]`, r the resolution.

    values: (F,) ms of each entry of the tables, 0 where the part is dropped. scale: (R,). offset: (R,) ms.
    deviations: the logarithms of each group's standard deviation and of the noise. similarity: (K,) of known devices, 1
    for the closest.
    """

    values: Floats
    scale: Floats
    offset: Floats
    deviations: Floats
    similarity: Floats


class LatencyRegression:
    """Regressions on subsets of N networks, whose features are made once.

    genomes: (N, G). measured: (N,) ms, positive. known_devices: (F,) ms each, the part times of other devices.
    """

    def __init__(
        self, tables: CostTables, genomes: Genomes, measured: Floats, known_devices: Sequence[Floats] = ()
    ) -> None:
        features, count = part_features(tables), len(tables.space.resolutions)
        self._tables, self._genomes, self._measured = tables, genomes, measured
        self._entries: dict[str, Floats] = dict(features.groups)
        if known_devices:
            self._entries = {"known_devices": np.stack(known_devices, 1), **self._entries}
        self._totals = {name: features.totals(columns, genomes) for name, columns in self._entries.items()}
        self._totals |= {"offset": np.ones((len(genomes), 1)), "resolution": np.eye(count)[genomes[:, 0]]}

    def fit(self, rows: Rows, expected: Expected | None = None, deviations: Floats | None = None) -> PartTimes:
        """Fit on the networks of these rows.

        expected: a latency model to correct; by default nothing is known. deviations: of an earlier fit, instead of
        learning them again.
        """
        expected = expected or Expected.nothing(self._tables)
        measured, resolution = self._measured[rows], self._genomes[rows, 0]
        unit = float(np.median(measured))
        factors, similarity = self._known_device_factors(rows, unit)
        relative = (expected.scale[resolution] * unit / measured)[:, None]
        design = {name: total[rows] * relative for name, total in self._totals.items()}
        if "known_devices" in design:
            design["known_devices"] = design["known_devices"] * factors
        sums = expected.values[self._tables.index(self._genomes[rows])].sum(1)
        target = 1 - (expected.scale[resolution] * sums + expected.offset[resolution]) / measured
        share = BESIDE_KNOWN if "known_devices" in design else 1.0
        prior = np.log([*(PRIOR[name] * (1.0 if name == "known_devices" else share) for name in design), NOISE])
        weights, learned = _robust_weights(list(design.values()), target, prior, deviations)
        ends = np.cumsum([columns.shape[1] for columns in design.values()])[:-1]
        by_group = dict(zip(design, np.split(unit * weights, ends), strict=True))
        if "known_devices" in by_group:
            by_group["known_devices"] = by_group["known_devices"] * factors
        change = np.zeros(self._tables.num_entries)
        for name, columns in self._entries.items():
            change += columns @ by_group[name]
        values, offset = self._physical(expected, change, by_group["offset"] + by_group["resolution"])
        return PartTimes(values, expected.scale, offset, learned, similarity)

    def _known_device_factors(self, rows: Rows, unit: float) -> tuple[Floats, Floats]:
        """(K,) factors that bring known devices to this one's latencies, smaller for less similar ones; similarity."""
        if "known_devices" not in self._totals:
            return np.ones(0), np.ones(0)
        log_ratio = np.log(self._measured[rows, None] / self._totals["known_devices"][rows])
        middle = np.median(log_ratio, 0)
        spread = np.maximum(1.4826 * np.median(np.abs(log_ratio - middle), 0), LEAST_SPREAD)
        similarity = spread.min() / spread
        factors: Floats = np.exp(middle) * similarity / unit
        return factors, similarity

    def _physical(self, expected: Expected, change: Floats, offset: Floats) -> tuple[Floats, Floats]:
        """(F,) values and (R,) offsets with these changes, such that every part takes time, and every network."""
        dropped = self._tables.dropped
        values = expected.values + change
        average = float(np.mean(np.abs(values[~dropped & np.isfinite(values)])))
        least = LEAST_SHARE * np.where(expected.values > 0, expected.values, average)
        values = np.where(dropped, 0.0, np.maximum(values, least))
        fastest = AdditiveCost(self._tables, "latency_ms", values, expected.scale).floors
        lowest = -MOST_NEGATIVE * np.where(np.isfinite(fastest), fastest, 0.0)
        return values, np.maximum(expected.offset + expected.scale * offset, lowest)


def _robust_weights(
    groups: Sequence[Floats], target: Floats, prior: Floats, deviations: Floats | None
) -> tuple[Floats, Floats]:
    """(D,) weights of the columns of all groups, and the logarithms of the groups' deviations and of the noise.

    groups: (N, D_g) columns each, relative. target: (N,), relative. prior: the logarithms before any measurement.
    """
    trust = np.ones(len(target))
    learned = prior if deviations is None else deviations
    subset = np.linspace(0, len(target) - 1, min(len(target), MAX_EVIDENCE)).astype(np.intp)
    covariances = np.stack([columns[subset] @ columns[subset].T for columns in groups])
    for _ in range(REWEIGHTINGS + 1):
        if deviations is None:
            learned = _learn_deviations(covariances, target[subset], trust[subset], prior, learned)
        stds = np.repeat(np.exp(learned[:-1]), [columns.shape[1] for columns in groups])
        columns = np.concatenate(groups, 1) * stds
        weights, errors = _ridge(columns, target, trust, float(np.exp(2 * learned[-1])))
        spread = max(1.4826 * float(np.median(np.abs(errors))), 1e-9)
        trust = np.minimum(1, HUBER * spread / np.maximum(np.abs(errors), 1e-12))
    return weights * stds, learned


def _ridge(columns: Floats, target: Floats, trust: Floats, variance: float) -> tuple[Floats, Floats]:
    """(D,) weights of lowest squared error and size, and (N,) errors; of few rows, errors of fits without the row."""
    if len(target) <= columns.shape[1]:
        inverse = np.asarray(np.linalg.inv(columns @ columns.T + np.diag(variance / trust)), np.float64)
        dual = inverse @ target
        return columns.T @ dual, dual / inverse.diagonal()
    weighted = columns * trust[:, None]
    normal = columns.T @ weighted + variance * np.eye(columns.shape[1])
    weights = np.asarray(np.linalg.solve(normal, weighted.T @ target), np.float64)
    return weights, target - columns @ weights


def _learn_deviations(covariances: Floats, target: Floats, trust: Floats, prior: Floats, start: Floats) -> Floats:
    """The logarithms of the groups' deviations and of the noise that maximise the posterior of `target`."""
    from scipy.optimize import minimize

    def loss(logs: Floats) -> tuple[float, Floats]:
        variances = np.exp(2 * logs)
        covariance = np.tensordot(variances[:-1], covariances, 1)
        covariance[np.diag_indices(len(target))] += variances[-1] / trust
        factor = np.linalg.cholesky(covariance)
        inverse = np.linalg.inv(covariance)
        dual = inverse @ target
        slopes = inverse - np.outer(dual, dual)
        gradient = np.append(
            variances[:-1] * np.tensordot(covariances, slopes, 2), variances[-1] * np.sum(slopes.diagonal() / trust)
        )
        away = (logs - prior) / TRUST
        value = 0.5 * target @ dual + np.log(factor.diagonal()).sum() + 0.5 * away @ away
        return float(value), gradient + away / TRUST

    result = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[LOG_BOUNDS] * len(prior), options={"maxiter": STEPS}
    )
    learned: Floats = result.x
    return learned
