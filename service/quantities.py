"""Quantities as people write them: `300M`, `1.5MB`, `8.5ms`, `78%`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a quantity.

    sizes: by its spelling, what each unit multiplies a number by, from large to small; reading ignores case. examples:
    for messages. shown: the units that answers for people are rounded to; all of them unless given.
    """

    sizes: Mapping[str, float]
    examples: tuple[str, ...] = ()
    shown: tuple[str, ...] | None = None

    @property
    def scale(self) -> Mapping[str, float]:
        """The shown units and their sizes."""
        return {unit: size for unit, size in self.sizes.items() if self.shown is None or unit in self.shown}

    @property
    def base(self) -> str:
        """The shown unit of plain numbers, empty where plain numbers are shown without a unit."""
        return next((unit for unit, size in self.scale.items() if size == 1), "")


COUNTS = Units({"G": 1e9, "M": 1e6, "k": 1e3}, ("4.5k", "300M", "1.2G"))
BYTES = Units(
    {"GB": 1e9, "GiB": 2.0**30, "MB": 1e6, "MiB": 2.0**20, "KB": 1e3, "KiB": 2.0**10, "B": 1.0},
    ("512KB", "1.5MB", "2MiB"),
    ("GiB", "MiB", "KiB"),
)
MILLISECONDS = Units({"ms": 1.0}, ("8.5ms",))
MILLIJOULES = Units({"J": 1e3, "mJ": 1.0}, ("2.5mJ", "1.2J"), ("mJ",))
PLAIN = Units({})


def read_choices(text: str) -> dict[str, list[float]]:
    """`kernel_size=3,5 stage3.depth=2` as `{"kernel_size": [3, 5], "stage3.depth": [2]}`.

    Raises:
        ValueError: the text does not have this form, or names a gene twice.
    """
    choices: dict[str, list[float]] = {}
    for item in text.split():
        name, _, values = item.partition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            numbers = []
        if not name or not numbers or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{item!r} is not a restricted gene; write it as kernel_size=3,5 or stage3.depth=2")
        if name in choices:
            raise ValueError(f"{name} is restricted twice; write all its choices after one {name}=")
        choices[name] = numbers
    return choices


def written_choices(choices: Mapping[str, Sequence[float]]) -> str:
    """Restricted genes as people type them, so that `read_choices` reads them again."""
    return " ".join(f"{name}={','.join(f'{value:g}' for value in values)}" for name, values in choices.items())


@dataclass(frozen=True)
class LatencyLimit:
    """The most latency on a device, ms. confidence: set to limit the upper bound of the latency instead."""

    device: str
    max_ms: float
    confidence: float | None = None

    @property
    def name(self) -> str:
        """As limits are named: `latency_ms@phone@0.9`."""
        return "@".join(("latency_ms", self.device, *([] if self.confidence is None else [str(self.confidence)])))

    def __str__(self) -> str:
        bound = "" if self.confidence is None else f"@{100 * self.confidence:.10g}%"
        return f"{self.device}={written(self.max_ms, MILLISECONDS)}{bound}"


def read_latency_limits(text: str) -> list[LatencyLimit]:
    """`phone=8.5ms board=40@90%`: at most 8.5 ms on one device, and a bound at 90 % of 40 ms on another.

    Raises:
        ValueError: the text does not have this form.
    """
    limits = []
    for item in text.split():
        device, equals, value = item.partition("=")
        amount, at, confidence = value.partition("@")
        if not device or not equals:
            raise ValueError(f"{item!r} is not a limit on a device; write it as phone=8.5ms or phone=8.5ms@90%")
        limits.append(LatencyLimit(device, quantity(amount, MILLISECONDS), fraction(confidence) if at else None))
    return limits


def quantity(text: str, units: Units) -> float:
    """A positive number, followed by one of the units or by none.

    Raises:
        ValueError: the text is not a positive finite number with such a unit.
    """
    lowered = text.strip().lower()
    sizes = {unit.lower(): size for unit, size in units.sizes.items()}
    unit = max((unit for unit in sizes if lowered.endswith(unit)), key=len, default="")
    try:
        value = float(lowered.removesuffix(unit)) * sizes.get(unit, 1.0)
    except ValueError as error:
        examples = " or ".join(["8.5", *units.examples])
        raise ValueError(f"{text!r} is not a quantity here; write it as {examples}") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a limit; a positive number is needed")
    return value


def written(value: float, units: Units) -> str:
    """A quantity as people type it: the shortest text that `quantity` reads as the same number."""
    sizes = {**{unit: size for unit, size in units.sizes.items() if size > 1}, "": 1.0}
    texts = [f"{value / size:.4g}{unit}" for unit, size in sizes.items() if value >= size]
    exact = [text for text in texts if "e" not in text and quantity(text, units) == value]
    return min(exact, key=len, default=repr(value) if value != round(value) else str(round(value)))


def rounded(value: float, units: Units) -> str:
    """A quantity for people, to at least three significant digits: `0.043 ms`, `978 k`, `3.21 MiB`, `1,020 KiB`."""
    unit = next((unit for unit, size in units.scale.items() if value >= 0.9995 * size), units.base)
    number = value / units.sizes.get(unit, 1.0)
    return f"{f'{number:,.0f}' if number >= 999.5 else f'{number:.3g}'} {unit}".rstrip()


def round_amount(limit: float, units: Units) -> float:
    """A round amount, between a hundredth and a tenth of a limit on a count, to say what it buys.

    Of bytes: 1 MiB, or 1 KiB where the limit is below 2 MiB.
    """
    if units is BYTES:
        return 2.0**20 if limit >= 2**21 else 2.0**10
    return float(10.0 ** (math.floor(math.log10(limit)) - 1))


def fraction(text: str) -> float:
    """`98.5%` or `0.985`, as 0.985.

    Raises:
        ValueError: the text is neither, or the fraction is not below 1.
    """
    number, is_percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    value = quantity(number, PLAIN)
    share = value / 100
    if is_percent:
        value = share
    if value >= 1:
        remedy = "less than 100%" if is_percent or share >= 1 else f"{number}% or {share:g}"
        raise ValueError(f"{text!r} is not a fraction between 0 and 1; write {remedy}")
    return value
