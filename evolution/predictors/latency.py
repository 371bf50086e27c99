"""A device's latency model: block times added up, calibrated on whole networks. Predicts; only a device measures.

    predicted = scale[r] * sum over blocks of (block time - overhead) + offset[r],  r the resolution

A probe runs each block alone, so each block's time may contain the overhead of a call, which a whole network pays
once. For networks of a fraction of a millisecond this overhead is most of the sum. Our probe subtracts it already; then
the fitted overhead is about 0. The additive table is that of ProxylessNAS and Once-for-All (arXiv:1812.00332,
arXiv:1908.09791); the calibration is ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.validation import folds, kendall_tau
from supernet.space import Genomes

MIN_NETWORKS = 4
FOLDS = 10
OVERHEADS = 21  # candidates for the overhead of a call, between 0 and the fastest block
SHRINKAGE = 4.0  # a resolution's own factor has weight n / (n + SHRINKAGE) for n networks measured there
MIN_SHARE = 1e-9  # of a sum of block times; anything smaller is a rounding error
REWEIGHTINGS = 10  # of Huber's robust fit
HUBER = 1.345  # 95 % efficiency under normal errors; P. Huber, "Robust statistics" (1981)


@dataclass(frozen=True)
class _Calibration:
    """overhead: ms per block. scale: (R,) without unit. offset: (R,) ms."""

    overhead: float
    scale: Floats
    offset: Floats

    @classmethod
    def fit(
        cls, sums: Floats, blocks: Floats, resolution: Genomes, measured: Floats, overheads: Floats, count: int
    ) -> Self:
        """Fit relative errors.

        sums: (M,) sums of block times, ms. blocks: (M,) numbers of blocks. count: R. overheads: candidates, ms per
        block, none of which makes a sum zero or negative.

        1. Take the overhead, and the line, of lowest robust error over all networks.
        2. Scale the line at each resolution by a factor shrunk towards 1, so that a resolution with few measured
           networks or none keeps the pooled line.
        """
        fits = [(*_robust_line(sums - overhead * blocks, measured), overhead) for overhead in overheads.tolist()]
        _, slope, intercept, overhead = min(fits)
        pooled = slope * (sums - overhead * blocks) + intercept
        log_ratio = np.log(measured / pooled)
        factor = np.ones(count)
        for r in np.unique(resolution):
            here = log_ratio[resolution == r]
            factor[r] = math.exp(float(np.median(here)) * len(here) / (len(here) + SHRINKAGE))
        return cls(overhead, slope * factor, intercept * factor)

    def predict(self, sums: Floats, blocks: Floats, resolution: Genomes) -> Floats:
        """(M,) ms."""
        predicted: Floats = self.scale[resolution] * (sums - self.overhead * blocks) + self.offset[resolution]
        return predicted


def _robust_line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Error, slope > 0 and intercept >= 0 of y = slope * x + intercept, by Huber's loss on relative residuals."""
    weight = np.ones(len(x))
    slope = intercept = 0.0
    constant = np.ptp(x) <= MIN_SHARE * x.max()
    residual = np.zeros(len(x))
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weight) / y
        columns = np.column_stack([x, np.ones(len(x))]) * root[:, None]
        if not constant:
            slope, intercept = np.linalg.lstsq(columns, y * root, rcond=None)[0].tolist()
        if constant or intercept < 0 or slope <= 0:  # too little spread for two numbers: a line through the origin
            slope, intercept = float((columns[:, 0] @ (y * root)) / (columns[:, 0] @ columns[:, 0])), 0.0
        residual = np.abs((slope * x + intercept) / y - 1)
        spread = max(1.4826 * float(np.median(residual)), 1e-9)  # of normal errors, from their median absolute value
        weight = np.minimum(1, HUBER * spread / np.maximum(residual, 1e-12))
    return float(np.mean(weight * residual**2)), slope, intercept


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts a device's latency for every architecture of a space.

    block_ms: the probe's time by block key. A key written `RESOLUTION:KEY` holds at that resolution alone.
    calibration: see the module.
    ratios: measured over predicted latency of whole networks, sorted; each is predicted by a fit that did not see it.
        Empty if no network was measured.
    card: the model's errors and origin, for its users.
    """

    tables: CostTables
    block_ms: Mapping[str, float]
    calibration: _Calibration
    ratios: Floats
    card: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        tables: CostTables,
        block_ms: Mapping[str, float],
        genomes: Genomes,
        measured_ms: Floats,
        rng: np.random.Generator,
    ) -> Self:
        """Fit the calibration on M whole networks, (M, G) genomes and (M,) ms; cross-validation gives the error.

        Raises:
            ValueError: fewer than 4 networks, a time that is not a positive number, or a network with an unmeasured
                block.
        """
        measured = np.asarray(measured_ms, np.float64)
        if len(genomes) < MIN_NETWORKS or measured.shape != (len(genomes),):
            raise ValueError(f"{len(genomes)} networks, {measured.size} times; at least {MIN_NETWORKS} pairs needed")
        bad = [f"network {i}: {value} ms" for i, value in enumerate(measured) if not (0 < value < math.inf)]
        bad += [f"block {key}: {value} ms" for key, value in block_ms.items() if not (0 < value < math.inf)]
        if bad:
            raise ValueError(f"a measured latency must be a positive number; {bad[0]}")
        sums, blocks = _sums(tables, block_ms, genomes)
        if not np.isfinite(sums).all():
            unknown = tables.space.id(genomes[int(np.argmax(~np.isfinite(sums)))])
            raise ValueError(
                f"network {unknown} runs a block that was not measured; measure its blocks or leave it out"
            )
        resolution, fastest = genomes[:, 0], min(block_ms[key] for key in tables.block_keys if key and key in block_ms)
        overheads = np.linspace(0, fastest, OVERHEADS)
        left = sums - overheads[:, None] * blocks  # (OVERHEADS, M)
        overheads = overheads[(left > MIN_SHARE * sums).all(1)]

        def fit(rows: NDArray[np.intp]) -> _Calibration:
            data = sums[rows], blocks[rows], resolution[rows], measured[rows]
            return _Calibration.fit(*data, overheads, len(tables.space.resolutions))

        predicted = np.empty(len(measured))
        for seen, unseen in folds(len(measured), FOLDS, rng):
            predicted[unseen] = fit(seen).predict(sums[unseen], blocks[unseen], resolution[unseen])
        ratios = measured / predicted
        card = {
            "networks": len(measured),
            "validation": f"{min(FOLDS, len(measured))}-fold cross-validation over whole networks",
            "mean_absolute_percentage_error": float(100 * np.abs(1 / ratios - 1).mean()),
            "kendall_tau": kendall_tau(predicted, measured),
            "blocks": len(block_ms),
            "resolutions": _covered(tables, block_ms),
            "resolutions_calibrated": [tables.space.resolutions[r] for r in np.unique(resolution)],
        }
        return cls(tables, dict(block_ms), fit(np.arange(len(measured))), np.sort(ratios), card)

    @classmethod
    def from_published(cls, tables: CostTables, block_ms: Mapping[int, Mapping[str, float]], source: str) -> Self:
        """The model of published tables: block times by resolution and block key, added up without calibration.

        No whole network was measured, so the error is unknown and there are no upper bounds. The prediction at a
        resolution without a table is inf. source: where the tables come from, for the card.

        Raises:
            ValueError: a time that is not a positive number.
        """
        by_key = {f"{side}:{key}": ms for side, table in block_ms.items() for key, ms in table.items()}
        for key, ms in by_key.items():
            if not 0 < ms < math.inf:
                raise ValueError(f"a latency must be a positive number; block {key}: {ms} ms")
        count = len(tables.space.resolutions)
        card = {
            "networks": 0,
            "validation": "none: published block times; no whole network was measured, so the error is unknown",
            "source": source,
            "blocks": len(by_key),
            "resolutions": _covered(tables, by_key),
            "resolutions_calibrated": [],
        }
        return cls(tables, by_key, _Calibration(0.0, np.ones(count), np.zeros(count)), np.zeros(0), card)

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) ms predicted for (N, G) genomes; inf where a block was not measured."""
        return self.cost("latency_ms")(genomes)

    def upper_bound(self, genomes: Genomes, confidence: float) -> Floats:
        """(N,) ms; a measured latency stays below with this confidence. Raises what `factor` does."""
        return self.cost("latency_ms", confidence)(genomes)

    def factor(self, confidence: float) -> float:
        """The factor, at least 1, from predictions to a one-sided upper bound.

        It is the conformal quantile: the ceil((n + 1) * confidence)-th smallest of the `ratios` (V. Vovk,
        "Cross-conformal predictors", arXiv:1208.0806). The bound holds on average over networks drawn like the measured
        ones; networks that a search prefers may differ.

        Raises:
            ValueError: too few networks were measured for this confidence.
        """
        if not len(self.ratios):
            raise ValueError(
                f"confidence is {confidence}; the latency model is a published table without measured networks, so its "
                "error is unknown; leave the confidence out, or measure the device with `supple probe`"
            )
        rank = math.ceil((len(self.ratios) + 1) * confidence)
        if not 0 < confidence < 1 or rank > len(self.ratios):
            highest = len(self.ratios) / (len(self.ratios) + 1)
            raise ValueError(
                f"confidence is {confidence}; {len(self.ratios)} measured networks support at most {highest:.3f}; "
                "ask for less or measure more networks"
            )
        return max(1.0, float(self.ratios[rank - 1]))

    def cost(self, name: str, confidence: float | None = None) -> AdditiveCost:
        """The prediction as an additive cost, or its upper bound at a confidence. Raises what `factor` does."""
        factor = 1.0 if confidence is None else self.factor(confidence)
        scale, offset = factor * self.calibration.scale, factor * self.calibration.offset
        return AdditiveCost(self.tables, name, self._values, scale, offset)

    @cached_property
    def _values(self) -> Floats:
        """(F,) the time of each entry's block without overhead, ms."""
        return _block_values(self.tables, {k: ms - self.calibration.overhead for k, ms in self.block_ms.items()})

    def to_json(self) -> dict[str, Any]:
        """The model as a JSON-able dict."""
        return {
            "space": self.tables.space.hash,
            "block_ms": dict(self.block_ms),
            "overhead_ms": self.calibration.overhead,
            "scale": self.calibration.scale.tolist(),
            "offset_ms": self.calibration.offset.tolist(),
            "ratios": self.ratios.tolist(),
            "card": dict(self.card),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tables: CostTables) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not of that form, or the model of another space.
        """
        try:
            if data["space"] != tables.space.hash:
                raise ValueError(
                    f"the latency model is of space {data['space'][:16]}, not {tables.space.hash[:16]}; measure again"
                )
            scale, offset = (np.array(data[key], np.float64) for key in ("scale", "offset_ms"))
            calibration = _Calibration(float(data["overhead_ms"]), scale, offset)
            block_ms = {str(key): float(ms) for key, ms in data["block_ms"].items()}
            return cls(tables, block_ms, calibration, np.array(data["ratios"], np.float64), dict(data["card"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a latency model: {error!r}") from error


def _sums(tables: CostTables, block_ms: Mapping[str, float], genomes: Genomes) -> tuple[Floats, Floats]:
    """(M,) sums of block times, ms, inf where a time is missing; (M,) numbers of blocks."""
    index = tables.index(genomes)
    blocks = np.array([key is not None for key in tables.block_keys], np.float64)
    return _block_values(tables, block_ms)[index].sum(1), blocks[index].sum(1)


def _block_values(tables: CostTables, block_ms: Mapping[str, float]) -> Floats:
    """(F,) the time of each entry's block: 0 where the part is dropped, inf where the time is missing."""
    values = tables.block_values(block_ms)
    if any(":" in key for key in block_ms):
        for side, entries in zip(tables.space.resolutions, tables.elimination.entries, strict=True):
            for entry in np.unique(entries):
                values[entry] = block_ms.get(f"{side}:{tables.block_keys[entry]}", values[entry])
    return values


def _covered(tables: CostTables, block_ms: Mapping[str, float]) -> list[int]:
    """The resolutions at which some architecture has all its blocks measured."""
    floors = AdditiveCost(tables, "latency_ms", _block_values(tables, block_ms)).floors
    return [side for side, floor in zip(tables.space.resolutions, floors, strict=True) if math.isfinite(floor)]
