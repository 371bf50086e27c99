"""Arrays that the package shares: their types, and keys of their rows."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def row_keys(genomes: NDArray[np.int8]) -> list[bytes]:
    """(N,) the bytes of each row of (N, G) genomes, by which they are looked up."""
    keys: list[bytes] = np.ascontiguousarray(genomes).view(f"V{genomes.shape[1]}").ravel().tolist()
    return keys
