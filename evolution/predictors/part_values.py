"""Values of a network's parts, by the key of the part's block, as files hold them."""

import math
from collections.abc import Mapping

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables

DIGITS = 8  # significant, of a part's value


def values_by_part(tables: CostTables, values: Floats) -> dict[str, float]:
    """By `PART/KEY`, the value of each part's block. values: (F,) of the entries; inf where it is unknown."""
    return {
        f"{tables.space.parts[part].name}/{key}": float(f"{value:.{DIGITS}g}")
        for part, key, value in zip(tables.parts, tables.block_keys, values.tolist(), strict=True)
        if key is not None and math.isfinite(value)
    }


def entry_values(tables: CostTables, by_key: Mapping[str, float]) -> Floats:
    """(F,) the value of each entry's block: 0 where the part is dropped, inf where the value is missing.

    by_key: a value by block key. A key written `RESOLUTION:KEY` holds at that resolution alone, and one written
    `PART/KEY` in that part alone.
    """
    values = tables.block_values(by_key)
    if any("/" in key for key in by_key):
        for entry, (part, key) in enumerate(zip(tables.parts, tables.block_keys, strict=True)):
            if key is not None:
                values[entry] = by_key.get(f"{tables.space.parts[part].name}/{key}", values[entry])
    if any(":" in key for key in by_key):
        for side, entries in zip(tables.space.resolutions, tables.elimination.entries, strict=True):
            for entry in np.unique(entries):
                values[entry] = by_key.get(f"{side}:{tables.block_keys[entry]}", values[entry])
    return values
