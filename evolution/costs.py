"""Costs read from tables: FLOPs, parameters, size of the file, peak memory, and predicted latency.

Every part of a network has one table entry per combination of its genes' choices (`PartTables`). The costs of N genomes
are one matrix product, which finds their entries, then a gather and a sum per cost (a maximum for peak memory).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.choices import Choices
from evolution.elimination import Eliminated, Elimination
from evolution.moves import Moves
from supernet.costs.filesize import fixed_bytes, part_bytes
from supernet.costs.memory import peak_memory
from supernet.costs.tables import PartTables
from supernet.operators import total_flops, total_params
from supernet.space import Genomes, SearchSpace

CostBuilder = Callable[["CostTables"], "Cost"]
DEVICE_COSTS = ("latency_ms", "device_memory_bytes", "energy_mj")  # models of a device predict them


class CostTables(PartTables):
    """The tables of one space, and the costs that follow from operator records alone.

    classes: the names of the classes, which an exported file holds; numbers unless given.
    builders: by the cost's name, how each counted cost is built from these tables; `COUNTED` unless given.
    """

    def __init__(
        self,
        space: SearchSpace,
        classes: Sequence[str] | None = None,
        builders: Mapping[str, CostBuilder] | None = None,
    ) -> None:
        super().__init__(space)
        self.classes = classes
        self._builders = COUNTED if builders is None else builders
        self._costs: dict[str, Cost] = {}

    @cached_property
    def elimination(self) -> Elimination:
        """The elimination that minimises sums of these tables, per resolution (gene 0)."""
        scopes = [part.genes for part in self.space.parts]
        return Elimination(scopes, self.offsets.tolist(), self.space.num_choices.tolist(), 0)

    @cached_property
    def choices(self) -> Choices:
        """All choices of the space, unrestricted."""
        return Choices(self.space)

    @cached_property
    def moves(self) -> Moves:
        """The moves of the space."""
        return Moves(self.choices)

    @cached_property
    def flops_cost(self) -> "AdditiveCost":
        """Multiply-adds per image."""
        return AdditiveCost(self, "flops", self.values(total_flops))

    @cached_property
    def params_cost(self) -> "AdditiveCost":
        """Learned parameters, batch norm's scale and shift included."""
        return AdditiveCost(self, "params", self.values(total_params))

    @cached_property
    def model_bytes_cost(self) -> "AdditiveCost":
        """Bytes of the exported file, at most; it is at most 1 % and 4 KiB smaller."""
        names = [self.space.parts[part].name for part in self.parts]
        sizes = {key: part_bytes(*key) for key in set(zip(names, self.operators, strict=True))}
        values = np.array([sizes[key] for key in zip(names, self.operators, strict=True)], np.float64)
        count = len(self.space.resolutions)
        offset = np.full(count, float(fixed_bytes(self.space, self.classes)))
        return AdditiveCost(self, "model_bytes", values, np.ones(count), offset)

    @cached_property
    def peak_memory_cost(self) -> "PeakCost":
        """Bytes of single-precision activations alive at once, for one image."""
        return PeakCost(self, "peak_memory_bytes", self.values(peak_memory))

    def cost(self, name: str) -> "Cost":
        """The counted cost of this name, built once.

        Raises:
            ValueError: no counted cost has this name.
        """
        if name not in self._builders:
            raise ValueError(f"unknown cost {name!r}; the costs are {', '.join((*self._builders, *DEVICE_COSTS))}")
        if name not in self._costs:
            self._costs[name] = self._builders[name](self)
        return self._costs[name]

    def flops(self, genomes: Genomes) -> Floats:
        """(N,) multiply-adds per image of (N, G) genomes; exact."""
        return self.flops_cost(genomes)

    def params(self, genomes: Genomes) -> Floats:
        """(N,) learned parameters of (N, G) genomes; exact."""
        return self.params_cost(genomes)

    def model_bytes(self, genomes: Genomes) -> Floats:
        """(N,) bytes of the exported file of (N, G) genomes, at most."""
        return self.model_bytes_cost(genomes)

    def peak_memory_bytes(self, genomes: Genomes) -> Floats:
        """(N,) bytes of single-precision activations alive at once, for one image, of (N, G) genomes; exact."""
        return self.peak_memory_cost(genomes)

    def block_values(self, by_key: Mapping[str, float]) -> Floats:
        """(F,) the value of each entry's block key: 0 where the part is dropped, inf where the key is missing."""
        return np.array([0.0 if key is None else by_key.get(key, np.inf) for key in self.block_keys])


def round_to_grid(values: Floats) -> Floats:
    """Values rounded to multiples of 2**-30; integers stay as they are.

    Sums of such values are exact in float64 while they stay below 2**23 (integers: 2**53), whatever the order of the
    terms. So a floor found by elimination equals, bit for bit, the cost of the architecture that reaches it.
    """
    return np.ldexp(np.rint(np.ldexp(values, 30)), -30)


@dataclass(frozen=True, eq=False)
class Cost(ABC):
    """A cost computed from one value per part of the network.

    name: its name in answers and refusals: `flops`, `params`, `latency_ms@DEVICE`, ...
    values: (F,) a value per entry of the tables, 0 where a part is dropped.

    Raises:
        ValueError: values of another shape, values that are not numbers above -inf, or a dropped part with a cost.
    """

    tables: CostTables
    name: str
    values: Floats

    def __post_init__(self) -> None:
        if self.values.shape != (self.tables.num_entries,):
            raise ValueError(f"{self.name}: {self.tables.num_entries} values needed, not {self.values.shape}")
        if np.isnan(self.values).any() or np.isneginf(self.values).any():
            raise ValueError(f"{self.name}: values must be numbers above -inf")
        if self.values[self.tables.dropped].any():
            raise ValueError(f"{self.name}: a dropped part must cost 0, whatever its genes say")

    def __call__(self, genomes: Genomes) -> Floats:
        """(N,) the cost of (N, G) genomes; inf where a block has no value in the tables."""
        return self.at(self.tables.index(genomes), genomes[:, 0])

    @abstractmethod
    def at(self, index: NDArray[np.intp], resolution: NDArray[np.int8]) -> Floats:
        """(N,) the cost from entries (N, P), as `CostTables.index` gives them, and choices of gene 0 (N,)."""

    @property
    @abstractmethod
    def ceiling(self) -> float:
        """An upper bound on the cost of every architecture whose cost is known."""

    @property
    @abstractmethod
    def eliminated(self) -> Eliminated:
        """The lowest totals per resolution."""

    def without(self, entries: NDArray[np.bool_]) -> Self:
        """The same cost, but unknown for every architecture that has one of these entries (F,)."""
        return replace(self, values=np.where(entries, np.inf, self.values))

    @cached_property
    def conditioned(self) -> Floats:
        """(R, F') the tables per resolution, laid out by `Elimination.condition`."""
        return self.tables.elimination.condition(self.values)

    @cached_property
    def cheapest(self) -> Genomes:
        """(R, G) per resolution, a canonical genome of lowest cost."""
        genomes = self.tables.elimination.argmin(self.eliminated)
        genomes[:, 0] = np.arange(len(genomes))
        return self.tables.space.canonical(genomes)

    @cached_property
    def floors(self) -> Floats:
        """(R,) the lowest cost per resolution, exact; inf at a resolution that the tables do not cover."""
        return self(self.cheapest)


@dataclass(frozen=True, eq=False)
class AdditiveCost(Cost):
    """A cost of the form `scale[resolution] * sum of one value per part + offset[resolution]`.

    values: (F,) inf where the cost is unknown; rounded by `round_to_grid`.
    scale, offset: (R,) an increasing affine map per resolution; 1 and 0 unless given.

    Raises:
        ValueError: shapes that do not fit the space, a map that does not increase. Also what `Cost` raises.
    """

    scale: Floats = field(default_factory=lambda: np.ones(0))
    offset: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        resolutions = len(self.tables.space.resolutions)
        scale = self.scale if len(self.scale) else np.ones(resolutions)
        offset = self.offset if len(self.offset) else np.zeros(resolutions)
        if scale.shape != (resolutions,) or offset.shape != (resolutions,):
            raise ValueError(f"{self.name}: {resolutions} scales and offsets needed, one per resolution")
        if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
            raise ValueError(f"{self.name}: scales must be positive and finite, offsets finite, not {scale}, {offset}")
        object.__setattr__(self, "values", round_to_grid(np.asarray(self.values, np.float64)))
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "offset", offset)

    def at(self, index: NDArray[np.intp], resolution: NDArray[np.int8]) -> Floats:
        """(N,) scaled sums."""
        return self.calibrate(self.values[index].sum(1), resolution)

    def calibrate(self, sums: Floats, resolution: NDArray[np.integer]) -> Floats:
        """(N,) the costs of sums of table values (N,) at resolutions (N,), as choices of gene 0."""
        scaled: Floats = sums * self.scale[resolution] + self.offset[resolution]
        return scaled

    @cached_property
    def ceiling(self) -> float:
        """The largest known cost, by elimination."""
        negative = np.where(np.isfinite(self.conditioned), -self.conditioned, np.inf)
        largest = -self.tables.elimination.eliminate(negative).minimum
        return float(np.max(largest * self.scale + self.offset, initial=0, where=np.isfinite(largest)))

    @cached_property
    def eliminated(self) -> Eliminated:
        """The lowest sums."""
        return self.tables.elimination.eliminate(self.conditioned)


@dataclass(frozen=True, eq=False)
class PeakCost(Cost):
    """A cost that is the largest of one value per part, such as peak memory. A limit on it forbids single entries.

    Raises:
        ValueError: a negative value. Also what `Cost` raises.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.values < 0).any():
            raise ValueError(f"{self.name}: values must not be negative")

    def at(self, index: NDArray[np.intp], resolution: NDArray[np.int8]) -> Floats:
        """(N,) largest values."""
        largest: Floats = self.values[index].max(1)
        return largest

    @property
    def ceiling(self) -> float:
        """The largest known value."""
        return float(np.max(self.values, initial=0, where=np.isfinite(self.values)))

    @cached_property
    def eliminated(self) -> Eliminated:
        """The lowest of the largest values."""
        return self.tables.elimination.eliminate(self.conditioned, np.maximum)

    def excess(self, limit: float) -> AdditiveCost:
        """1 plus the number of parts above a limit: at most 1 exactly where the cost is within the limit."""
        return AdditiveCost(
            self.tables,
            self.name,
            (self.values > limit).astype(np.float64),
            offset=np.ones(len(self.tables.space.resolutions)),
        )


COUNTED: Mapping[str, CostBuilder] = {
    "flops": lambda tables: tables.flops_cost,
    "params": lambda tables: tables.params_cost,
    "model_bytes": lambda tables: tables.model_bytes_cost,
    "peak_memory_bytes": lambda tables: tables.peak_memory_cost,
}
