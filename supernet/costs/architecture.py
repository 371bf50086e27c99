"""The exact costs of one architecture, from its operator records."""

from collections.abc import Sequence

from supernet.costs.filesize import fixed_bytes, part_bytes
from supernet.costs.memory import peak_memory
from supernet.operators import total_flops, total_params
from supernet.space import Architecture, SearchSpace


def of_architecture(space: SearchSpace, arch: Architecture, class_names: Sequence[str] | None = None) -> dict[str, int]:
    """Exact costs of one architecture at any resolution that is a multiple of 4, for one image.

    `flops` (multiply-adds), `params`, `model_bytes` (an upper bound on the exported file's size), `peak_memory_bytes`
    (of single-precision activations). class_names: written into the exported file; numbers unless given.

    Raises:
        ValueError: the architecture lies outside the space, or its resolution is no multiple of 4.
    """
    parts = list(space.part_operators(arch))
    return {
        "flops": sum(total_flops(records) for _, records in parts),
        "params": sum(total_params(records) for _, records in parts),
        "model_bytes": fixed_bytes(space, class_names) + sum(part_bytes(part.name, records) for part, records in parts),
        "peak_memory_bytes": max(peak_memory(records) for _, records in parts),
    }
