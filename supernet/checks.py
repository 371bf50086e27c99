"""What configurations have in common: unknown keys are refused, and numbers are checked where they are given."""

import math

# Read where configurations are parsed: a misspelt key is an error instead of being passed over.
FORBID_EXTRA = {"extra": "forbid"}


def require(name: str, value: float, minimum: float, maximum: float = math.inf, *, below: float = math.inf) -> None:
    """Refuse a number that is not finite, not from `minimum` to `maximum`, or not below `below`.

    Raises:
        ValueError: naming the setting, its value and its range.
    """
    if math.isfinite(value) and minimum <= value <= maximum and value < below:
        return
    upper = f" and at most {maximum:g}" if math.isfinite(maximum) else ""
    upper = f" and below {below:g}" if math.isfinite(below) else upper
    raise ValueError(f"{name} is {value}; a number of at least {minimum:g}{upper} is needed")
