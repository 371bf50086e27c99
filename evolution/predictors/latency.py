"""A device's latency model: times of parts added up. Predicts; only a device measures.

    predicted = scale[r] * sum over parts of the part's time + offset[r],  r the resolution

It comes from block times and whole networks, from whole networks alone (`latency_fitting`), or from a published table.
Since it adds up, the lowest latency within other limits is exact, and a search can prove its answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.conformal import conformal_bound
from evolution.predictors.device_cost import DeviceCostModel
from evolution.predictors.latency_calibration import Calibration
from evolution.predictors.latency_fitting import LatencyFit, error_card, more_networks
from evolution.predictors.part_values import entry_values, values_by_part
from supernet.space import Genomes

MIN_NETWORKS = 4
ERRORS = ("mean_absolute_percentage_error", "bias_percent", "kendall_tau")
MARGINAL = "they hold on average over networks like these, not for each network nor for those that a search prefers"


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts a device's latency for every architecture of a space.

    block_ms: a time by block key. A key written `RESOLUTION:KEY` holds at that resolution alone, and one written
        `PART/KEY` in that part alone.
    calibration: see the module.
    ratios: measured over predicted latency of whole networks, sorted; each is predicted by a fit that did not see it,
        and of a second run if there was one. Empty if no network was measured.
    card: the model's errors and origin, for its users.
    beside: by name of the cost, models of what the device told beside latency: memory, energy.
    """

    tables: CostTables
    block_ms: Mapping[str, float]
    calibration: Calibration
    ratios: Floats
    card: Mapping[str, Any]
    beside: Mapping[str, DeviceCostModel] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        tables: CostTables,
        block_ms: Mapping[str, float],
        genomes: Genomes,
        measured_ms: Floats,
        rng: np.random.Generator,
        *,
        known_devices: Mapping[str, "LatencyModel"] | None = None,
        second_run: tuple[Genomes, Floats] | None = None,
    ) -> Self:
        """Fit on M whole networks, (M, G) genomes and (M,) ms.

        block_ms: times of blocks by key; empty for whole networks alone.
        known_devices: latency models of other devices, to borrow from; the fit finds how much.
        second_run: (K, G) genomes and (K,) ms of whole networks measured in a run of their own. They are not fitted on,
            so they tell the error, and the bounds are split-conformal. Without them, cross-validation within the first
            run tells the error, which may be too low: measurements of one run share its disturbances.

        Raises:
            ValueError: fewer than 4 networks, a time that is not a positive number, or a network with an unmeasured
                block.
        """
        measured = np.asarray(measured_ms, np.float64)
        if len(genomes) < MIN_NETWORKS or measured.shape != (len(genomes),):
            raise ValueError(f"{len(genomes)} networks, {measured.size} times; at least {MIN_NETWORKS} pairs needed")
        check_genomes, check_ms = second_run if second_run is not None else (genomes[:0], measured[:0])
        check_ms = np.asarray(check_ms, np.float64)
        if check_ms.shape != (len(check_genomes),):
            raise ValueError(f"{len(check_genomes)} networks of a second run, {check_ms.size} times")
        _check_positive(block_ms, np.concatenate([measured, check_ms]))
        blocks = entry_values(tables, block_ms) if block_ms else None
        if blocks is not None:
            _check_measured(tables, blocks, np.concatenate([genomes, check_genomes]))
        borrowed = {name: model.part_times for name, model in (known_devices or {}).items() if model.is_complete}
        fit = LatencyFit(tables, blocks, genomes, measured, list(borrowed.values()))
        times = fit.fit(np.arange(len(measured)))
        first = error_card(predicted := fit.cross_validated(times, rng), measured)
        part_ms = values_by_part(tables, times.values)
        card = {
            "networks": len(measured),
            "blocks": len(block_ms),
            "resolutions": _covered(tables, part_ms),
            "resolutions_calibrated": [tables.space.resolutions[r] for r in np.unique(genomes[:, 0])],
            "first_run": first,
        }
        if borrowed:
            card["known_devices"] = dict(zip(borrowed, times.similarity.tolist(), strict=True))
        if blocks is None:
            curve = fit.learning_curve(times, rng)
            card["learning_curve"] = {str(size): error for size, error in curve.items()}
            card["more_networks"] = more_networks(curve, len(measured))
        model = cls(tables, part_ms, Calibration(0.0, times.scale, times.offset), np.sort(measured / predicted), card)
        return model._checked(check_genomes, check_ms)

    def _checked(self, genomes: Genomes, measured: Floats) -> Self:
        """This model with the error and the bounds that K networks of a second run tell, or of the first run if K is 0.

        genomes: (K, G). measured: (K,) ms.
        """
        first = self.card["first_run"]
        folds = f"cross-validation over the {first['networks']} networks that it was fitted on, of one measuring run"
        card = {**self.card, **{name: first[name] for name in ERRORS}, "validation": folds, "second_run": None}
        card["bounds"] = f"cross-conformal, over the same {first['networks']} networks; {MARGINAL}"
        if not len(genomes):
            return replace(self, card=card)
        predicted = self.predict(genomes)
        second = error_card(predicted, measured)
        card |= {name: second[name] for name in ERRORS}
        card["second_run"] = second
        card["validation"] = f"{len(genomes)} networks of a second measuring run, which it was not fitted on"
        card["bounds"] = f"split-conformal, over the {len(genomes)} networks of the second measuring run; {MARGINAL}"
        return replace(self, ratios=np.sort(measured / predicted), card=card)

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
        return cls(tables, by_key, Calibration(0.0, np.ones(count), np.zeros(count)), np.zeros(0), card)

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) ms predicted for (N, G) genomes; inf where a block was not measured."""
        return self.cost("latency_ms")(genomes)

    def upper_bound(self, genomes: Genomes, confidence: float) -> Floats:
        """(N,) ms; a measured latency stays below with this confidence. Raises what `factor` does."""
        return self.cost("latency_ms", confidence)(genomes)

    def factor(self, confidence: float) -> float:
        """The factor, at least 1, from predictions to a one-sided upper bound: the conformal bound of the `ratios`.

        The bound holds on average over networks drawn like the measured ones (`conformal`); networks that a search
        prefers may differ. The card's `bounds` says which networks these are.

        Raises:
            ValueError: too few networks were measured for this confidence.
        """
        if not len(self.ratios):
            raise ValueError(
                f"confidence is {confidence}; the latency model is a published table without measured networks, so its "
                "error is unknown; leave the confidence out, or measure the device with `supple probe`"
            )
        return max(1.0, conformal_bound(self.ratios, confidence))

    def cost(self, name: str, confidence: float | None = None) -> AdditiveCost:
        """The prediction as an additive cost, or its upper bound at a confidence. Raises what `factor` does."""
        factor = 1.0 if confidence is None else self.factor(confidence)
        scale, offset = factor * self.calibration.scale, factor * self.calibration.offset
        return AdditiveCost(self.tables, name, self._values, scale, offset)

    @cached_property
    def _values(self) -> Floats:
        """(F,) the time of each entry's block without overhead, ms."""
        return entry_values(self.tables, {k: ms - self.calibration.overhead for k, ms in self.block_ms.items()})

    @cached_property
    def part_times(self) -> Floats:
        """(F,) ms of each entry of the tables inside a network, without the offset; inf where it is unknown."""
        scale = np.ones(self.tables.num_entries)
        for factor, entries in zip(self.calibration.scale, self.tables.elimination.entries, strict=True):
            scale[np.unique(entries)] = factor
        return self._values * scale

    @property
    def is_complete(self) -> bool:
        """Whether it predicts every architecture."""
        return bool(np.isfinite(self.part_times).all())

    @property
    def limitable(self) -> Mapping[str, DeviceCostModel]:
        """By name, the models of costs beside latency that limits can be on."""
        return {name: model for name, model in self.beside.items() if model.refused is None}

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
            **({"beside": {name: model.to_json() for name, model in self.beside.items()}} if self.beside else {}),
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
            calibration = Calibration(float(data["overhead_ms"]), scale, offset)
            block_ms = {str(key): float(ms) for key, ms in data["block_ms"].items()}
            ratios, card = np.array(data["ratios"], np.float64), dict(data["card"])
            beside = {name: DeviceCostModel.from_json(name, x, tables) for name, x in data.get("beside", {}).items()}
            return cls(tables, block_ms, calibration, ratios, card, beside)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a latency model: {error!r}") from error


def _check_positive(block_ms: Mapping[str, float], measured: Floats) -> None:
    bad = [f"network {i}: {value} ms" for i, value in enumerate(measured.tolist()) if not 0 < value < math.inf]
    bad += [f"block {key}: {value} ms" for key, value in block_ms.items() if not 0 < value < math.inf]
    if bad:
        raise ValueError(f"a measured latency must be a positive number; {bad[0]}")


def _check_measured(tables: CostTables, blocks: Floats, genomes: Genomes) -> None:
    known = np.isfinite(blocks[tables.index(genomes)].sum(1))
    if not known.all():
        network = tables.space.id(genomes[int(np.argmin(known))])
        raise ValueError(f"network {network} runs a block that was not measured; measure its blocks or leave it out")


def _covered(tables: CostTables, block_ms: Mapping[str, float]) -> list[int]:
    """The resolutions at which some architecture has all its blocks measured."""
    floors = AdditiveCost(tables, "latency_ms", entry_values(tables, block_ms)).floors
    return [side for side, floor in zip(tables.space.resolutions, floors, strict=True) if math.isfinite(floor)]
