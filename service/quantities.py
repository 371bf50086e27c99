"""Numbers as people write them."""


def quantity(text: str) -> float:
    """A number with an optional K, M, G or ms behind it.

    Raises:
        ValueError: anything else, or no finite positive number.
    """
    units = {"ms": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
    lowered = text.strip().lower()
    unit = next((unit for unit in units if lowered.endswith(unit)), "")
    try:
        value = float(lowered.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a quantity; write it as 300M, 4.5k, 8ms or 8.5") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a limit; a positive number is needed")
    return value
