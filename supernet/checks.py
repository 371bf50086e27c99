"""What configurations have in common: unknown keys are refused, and numbers are checked where they are given."""

import math

# Read where configurations are parsed: a misspelt key is an error instead of being passed over.
FORBID_EXTRA = {"extra": "forbid"}


def require(name: str, value: float, least: float, most: float = math.inf, *, below: float = math.inf) -> None:
    """Refuse a number that is not finite, or not from `least` to `most` and below `below`.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    if math.isfinite(value) and least <= value <= most and value < below:
        return
    upper = f" and below {below:g}" if math.isfinite(below) else f" and at most {most:g}" if math.isfinite(most) else ""
    raise ValueError(f"{name} is {value}; a number of at least {least:g}{upper} is needed")
