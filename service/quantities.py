"""Numbers as people write them."""

from collections.abc import Mapping

Units = Mapping[str, float]  # in small letters, and what each multiplies by

COUNTS: Units = {"k": 1e3, "m": 1e6, "g": 1e9}
MILLISECONDS: Units = {"ms": 1.0}
PLAIN: Units = {}
UNITS: Mapping[str, Units] = {"flops": COUNTS, "params": COUNTS, "latency_ms": MILLISECONDS}  # of each cost's limit


def quantity(text: str, units: Units) -> float:
    """A positive number with one of these units behind it, or none.

    Raises:
        ValueError: anything else, or no finite positive number.
    """
    lowered = text.strip().lower()
    unit = next((unit for unit in units if lowered.endswith(unit)), "")
    try:
        value = float(lowered.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError as error:
        forms = {"ms": "8.5ms", "k": "4.5k", "m": "300M", "g": "1.2G"}
        examples = " or ".join(["8.5", *(forms[unit] for unit in units)])
        raise ValueError(f"{text!r} is not a quantity here; write it as {examples}") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a limit; a positive number is needed")
    return value
