"""What networks need of a device beside time, memory or energy: a sum over parts, fitted on whole networks.

    predicted = sum over parts of the part's value + offset[r],  r the resolution

Energy adds up over parts, as latency does, and is close to a multiple of it. Peak memory does not: in truth it is what
the runtime holds, plus weights and buffers, plus a maximum over the activations that live at once. A sum cannot follow
the maximum, and what that costs is in the error on networks that the fit did not see. A model whose error is above
`MOST_ERROR` is kept for its card and refuses limits. Since the model is a sum, floors and proofs of limits on it are
exact, for the predicted values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.predictors.latency_fitting import LatencyFit, error_card
from evolution.predictors.part_values import entry_values, values_by_part
from supernet.space import Genomes

MIN_NETWORKS = 8
MOST_ERROR = 10.0  # per cent, the mean absolute error on held-out networks; a limit on a worse prediction says little
NOTHING = 1e-6  # of the cost's unit; no network needs so little
WHOLE = ("device_memory_bytes",)  # costs that are whole numbers, of which large sums stay exact


@dataclass(frozen=True, eq=False)
class DeviceCostModel:
    """Predicts the memory or the energy of every architecture of a space on a device.

    name: of the cost, `device_memory_bytes` or `energy_mj`. part_values: by `PART/KEY`, in the cost's unit.
    offset: (R,). card: the errors on held-out networks; `refused` says why limits on it are refused, or is None.
    """

    tables: CostTables
    name: str
    part_values: Mapping[str, float]
    offset: Floats
    card: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        tables: CostTables,
        name: str,
        genomes: Genomes,
        measured: Floats,
        rng: np.random.Generator,
        similar: Sequence[Floats] = (),
    ) -> Self:
        """Fit on N measured networks, (N, G) genomes and (N,) values. Too few, or a value of 0, give a refusing model.

        similar: (F,) each, values of parts that this cost may be a multiple of, such as their times.
        """
        count, resolutions = len(measured), len(tables.space.resolutions)
        card: dict[str, Any] = {"networks": count, "most_error": MOST_ERROR}
        reason = _cannot_fit(measured)
        if reason is not None:
            return cls(tables, name, {}, np.zeros(resolutions), {**card, "refused": reason})
        fit = LatencyFit(tables, None, genomes, np.asarray(measured, np.float64), similar)
        parts = fit.fit(np.arange(count))
        card |= error_card(fit.cross_validated(parts, rng), measured)
        card["validation"] = f"cross-validation over the {count} networks that it was fitted on"
        error = card["mean_absolute_percentage_error"]
        if error > MOST_ERROR:
            reason = (
                f"predictions for networks that the fit did not see are off by {error:.1f} % on average, and at most "
                f"{MOST_ERROR:g} % is allowed; measure the device again while nothing else runs, with more networks"
            )
        values, offset = parts.values, parts.offset
        if name in WHOLE:
            values, offset = np.rint(values), np.rint(offset)
        return cls(tables, name, values_by_part(tables, values), offset, {**card, "refused": reason})

    @property
    def refused(self) -> str | None:
        """Why limits on this cost are refused; None if they are not."""
        reason: str | None = self.card["refused"]
        return reason

    def cost(self, name: str) -> AdditiveCost:
        """The prediction as an additive cost of this name.

        Raises:
            ValueError: the model refuses limits, and why.
        """
        if self.refused is not None:
            raise ValueError(f"{name} cannot be predicted: {self.refused}")
        return AdditiveCost(self.tables, name, self._values, offset=self.offset)

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) values predicted for (N, G) genomes. Raises what `cost` does."""
        return self.cost(self.name)(genomes)

    @cached_property
    def _values(self) -> Floats:
        """(F,) the value of each entry."""
        return entry_values(self.tables, self.part_values)

    def to_json(self) -> dict[str, Any]:
        """The model as a JSON-able dict, without its name and its space."""
        return {"part_values": dict(self.part_values), "offset": self.offset.tolist(), "card": dict(self.card)}

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any], tables: CostTables) -> Self:
        """Read what `to_json` wrote. Raises AttributeError, KeyError, TypeError or ValueError: not of that form."""
        values = {str(key): float(value) for key, value in data["part_values"].items()}
        return cls(tables, name, values, np.array(data["offset"], np.float64), dict(data["card"]))


def _cannot_fit(measured: Floats) -> str | None:
    """Why no model can be fitted on these values; None if one can."""
    if len(measured) < MIN_NETWORKS:
        return f"it was measured for {len(measured)} networks, and {MIN_NETWORKS} are needed; measure more networks"
    if zeros := int(np.sum(~(measured > NOTHING))):
        return (
            f"{zeros} of the {len(measured)} measured networks have 0 or next to it, which no network needs: the "
            "device's counter is too coarse for them; measure larger batches under another device name"
        )
    return None
