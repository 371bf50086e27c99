"""Numbers as people write them."""

import math
from collections.abc import Mapping, Sequence

Units = Mapping[str, float]  # in small letters, and what each multiplies by

COUNTS: Units = {"k": 1e3, "m": 1e6, "g": 1e9}
BYTES: Units = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
MILLISECONDS: Units = {"ms": 1.0}
PLAIN: Units = {}
BYTE_COSTS = ("model_bytes", "peak_memory_bytes")
SCALES = (  # of counts, and of bytes
    (("G", 1e9), ("M", 1e6), ("k", 1e3)),
    (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)),
)
UNITS: Mapping[str, Units] = {  # of each cost's limit
    "flops": COUNTS,
    "params": COUNTS,
    "latency_ms": MILLISECONDS,
    **dict.fromkeys(BYTE_COSTS, BYTES),
}
FORMS = {"ms": "8.5ms", "k": "4.5k", "m": "300M", "g": "1.2G", "kb": "512KB", "mb": "1.5MB", "mib": "2MiB"}


def quantity(text: str, units: Units) -> float:
    """A positive number with one of these units behind it, or none.

    Raises:
        ValueError: anything else, or no finite positive number.
    """
    lowered = text.strip().lower()
    unit = max((unit for unit in units if lowered.endswith(unit)), key=len, default="")
    try:
        value = float(lowered.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError as error:
        examples = " or ".join(["8.5", *(FORMS[unit] for unit in units if unit in FORMS)])
        raise ValueError(f"{text!r} is not a quantity here; write it as {examples}") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a limit; a positive number is needed")
    return value


def rounded(value: float, cost: str) -> str:
    """An amount of a cost for people, to three significant digits: `0.043 ms`, `978 k`, `3.21 MiB`."""
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    for unit, size in SCALES[cost in BYTE_COSTS]:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def handy(limit: float, cost: str) -> float:
    """A round amount of a cost, some hundredths to a tenth of a limit, to say what it buys."""
    if cost in BYTE_COSTS:
        return 2.0**20 if limit >= 2**21 else 2.0**10
    return float(10.0 ** (math.floor(math.log10(limit)) - 1))


def fraction(text: str) -> float:
    """`98.5%` or `0.985`.

    Raises:
        ValueError: anything else.
    """
    value = quantity(text.strip().removesuffix("%"), PLAIN)
    if text.strip().endswith("%"):
        value /= 100
    elif value >= 1:
        raise ValueError(f"{text!r} is no fraction; write {text}% or a number below 1")
    if value >= 1:
        raise ValueError(f"{text!r} is no accuracy that can be asked for; write less than 100%")
    return value


def limits(typed: Mapping[str, str | None], latency: Sequence[str] = ()) -> dict[str, float]:
    """Limits by cost from texts, None where there is none. latency: `8ms`, or `DEVICE=8ms`, any number of these.

    A device's name becomes part of the cost's, `latency_ms@DEVICE`; of several limits on it the lowest counts.

    Raises:
        ValueError: what `quantity` raises.
    """
    found = {cost: quantity(text, UNITS[cost]) for cost, text in typed.items() if text is not None}
    for text in latency:
        device, on, number = text.rpartition("=")
        name = f"latency_ms@{device}" if on else "latency_ms"
        found[name] = min(quantity(number, UNITS["latency_ms"]), found.get(name, float("inf")))
    return found
