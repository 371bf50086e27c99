"""The costs that networks are limited by, once. Requests, answers, options, pages and messages follow from this table.

To add a cost, add a row. A counted cost needs a function that builds it from cost tables; see `evolution.costs`. What a
device has, and nothing counts, also needs the fields of a candidate that show it predicted and measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolution.costs import COUNTED, CostBuilder, CostTables
from service.quantities import BYTES, COUNTS, MILLIJOULES, MILLISECONDS, Units, quantity
from supernet.space import SearchSpace


@dataclass(frozen=True, eq=False)
class CostKind:
    """One row of the table. Texts are written as inside a sentence."""

    name: str  # in requests and answers
    label: str  # for people
    lowest: str  # the superlative of a small one: the `lowest` latency, the `fewest` parameters
    unit: str  # what its numbers count
    description: str  # one line for the documentation of the API and of the command line
    units: Units  # in which people type a limit on it
    example: str  # a limit as people type it
    build: CostBuilder | None = None  # None: a model of a device predicts it, nothing counts it
    whole: bool = True  # whether its values are whole numbers
    option: str = ""  # of the command line, where it is not `--max-NAME`

    @property
    def field(self) -> str:
        """The field of requests and forms that limits it: `max_latency_ms`."""
        return f"max_{self.name}"

    @property
    def flag(self) -> str:
        """The option of the command line that limits it: `--max-latency-ms`."""
        return self.option or f"--{self.field.replace('_', '-')}"

    def number(self, value: float) -> float:
        """A value as answers show it."""
        return int(value) if self.whole else float(value)


COSTS: tuple[CostKind, ...] = (
    CostKind(
        "latency_ms",
        label="latency",
        lowest="lowest",
        unit="ms",
        description="milliseconds for one run on a device",
        units=MILLISECONDS,
        example="8.5ms",
        whole=False,
    ),
    CostKind(
        "flops",
        label="FLOPs",
        lowest="fewest",
        unit="multiply-adds",
        description="multiply-adds for one image",
        units=COUNTS,
        example="300M",
        build=COUNTED["flops"],
    ),
    CostKind(
        "params",
        label="parameters",
        lowest="fewest",
        unit="learned values",
        description="learned values in all layers",
        units=COUNTS,
        example="4.5M",
        build=COUNTED["params"],
    ),
    CostKind(
        "model_bytes",
        label="file size",
        lowest="smallest",
        unit="bytes of ONNX, at most",
        description="bytes of the ONNX file, at most",
        units=BYTES,
        example="1.5MB",
        build=COUNTED["model_bytes"],
    ),
    CostKind(
        "peak_memory_bytes",
        label="peak memory",
        lowest="lowest",
        unit="bytes of activations",
        description="bytes of single-precision activations alive at once, for one image",
        units=BYTES,
        example="512KB",
        build=COUNTED["peak_memory_bytes"],
        option="--max-peak-memory",
    ),
    CostKind(
        "device_memory_bytes",
        label="device memory",
        lowest="lowest",
        unit="bytes",
        description="bytes that a process on a device grows by, at most, while it loads and runs the network",
        units=BYTES,
        example="20MB",
        option="--max-device-memory",
    ),
    CostKind(
        "energy_mj",
        label="energy",
        lowest="lowest",
        unit="mJ",
        description="millijoules of the device's processor for one run",
        units=MILLIJOULES,
        example="40mJ",
        whole=False,
    ),
)


def cost_kind(name: str) -> CostKind:
    """The row of a cost. name: the cost's, or a limit's, as in `latency_ms@DEVICE@0.9`."""
    name = name.partition("@")[0]
    return next(kind for kind in COSTS if kind.name == name)


def device_costs() -> tuple[CostKind, ...]:
    """The costs that each device has its own values of, which a model of the device predicts."""
    return tuple(kind for kind in COSTS if kind.build is None)


def counted_costs() -> tuple[CostKind, ...]:
    """The costs that are equal on every device, because they are counted and not measured."""
    return tuple(kind for kind in COSTS if kind.build is not None)


def cost_tables(space: SearchSpace, classes: Sequence[str] | None = None) -> CostTables:
    """The tables of a space, which know every counted cost. classes: as `CostTables` takes them."""
    return CostTables(space, classes, {kind.name: kind.build for kind in COSTS if kind.build is not None})


def read_limits(
    texts: Mapping[str, str | None], on_devices: Mapping[str, Sequence[str]] | None = None
) -> dict[str, float]:
    """Limits by cost, from texts, which are None where there is no limit.

    on_devices: by cost of devices, limits such as `8ms`, or `DEVICE=8ms` for a device. A device's name becomes part of
    the cost's name, `latency_ms@DEVICE`. Of several limits on one cost the lowest counts.

    Raises:
        ValueError: what `quantity` raises.
    """
    limits = {name: quantity(text, cost_kind(name).units) for name, text in texts.items() if text is not None}
    for cost, limited in (on_devices or {}).items():
        for text in limited:
            device, equals, number = text.rpartition("=")
            name = f"{cost}@{device}" if equals else cost
            limits[name] = min(quantity(number, cost_kind(cost).units), limits.get(name, float("inf")))
    return limits
