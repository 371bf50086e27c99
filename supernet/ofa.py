"""Reading what Once-for-All published (arXiv:1908.09791): its checkpoints, accuracy predictor and latency tables.

Everything comes back as plain arrays and numbers. torch and PyYAML load inside the functions that need them; files of
torch are read with `weights_only=True`, so that nothing in them is executed.
"""

import math
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.operators import Operator, Operators, block_key
from supernet.space import SearchSpace

PREDICTOR_LAYERS = ("0", "2", "4", "6")  # of an nn.Sequential with ReLU between them


def read_predictor(path: Path) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]:
    """The layers of Once-for-All's accuracy predictor: weights (inputs, outputs) and biases (outputs,).

    Raises:
        ValueError: not such a file; the message names it. OSError: it cannot be read.
    """
    tensors = _state_dict(path)
    names = {f"{layer}.{kind}" for layer in PREDICTOR_LAYERS for kind in ("weight", "bias")}
    if tensors.keys() != names:
        raise ValueError(
            f"{path} is not Once-for-All's accuracy predictor: it holds {_listed(tensors)}, not {_listed(names)}"
        )
    return tuple((tensors[f"{layer}.weight"].T, tensors[f"{layer}.bias"]) for layer in PREDICTOR_LAYERS)


def read_latency_tables(directory: Path, space: SearchSpace) -> dict[int, dict[str, float]]:
    """Milliseconds by resolution and `block_key`, from Once-for-All's files `RESOLUTION_lookup_table.yaml`.

    A resolution of the space without a file has no entry. Blocks of equal records have different values in the tables
    of different resolutions, since each was measured by itself.

    Raises:
        ValueError: no file for any resolution, no such file, a block that it does not hold; the message names the file.
    """
    found = {side: directory / f"{side}_lookup_table.yaml" for side in space.resolutions}
    found = {side: path for side, path in found.items() if path.is_file()}
    if not found:
        sides = ", ".join(map(str, space.resolutions))
        raise ValueError(f"{directory} holds no RESOLUTION_lookup_table.yaml for a resolution of {space.name}: {sides}")
    return {side: _read_table(path, space, side) for side, path in found.items()}


def _read_table(path: Path, space: SearchSpace, resolution: int) -> dict[str, float]:
    import yaml

    try:
        rows = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(rows, dict):
        raise ValueError(f"{path} is not a latency table: it holds no entries by name")
    blocks = {records for records in _blocks(space, resolution) if records}
    names = {records: _table_names(records) for records in blocks}
    if missing := sorted({name for of_block in names.values() for name in of_block} - rows.keys()):
        raise ValueError(
            f"{path} lacks {_listed(missing)}; its table is of another space or width than {space.name}, or incomplete"
        )
    milliseconds = {name: _mean(path, name, rows[name]) for of_block in names.values() for name in of_block}
    return {block_key(records): sum(milliseconds[name] for name in names[records]) for records in blocks}


def _mean(path: Path, name: str, row: Any) -> float:
    value = row.get("mean") if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: {name} needs a mean that is a positive number of ms, not {value!r}")
    return float(value)


def _blocks(space: SearchSpace, resolution: int) -> "set[Operators]":
    """The records of every part of the network, at one resolution, for every combination of its genes."""
    choices = [gene.choices for gene in space.genes]
    choices[0] = (resolution,)
    return {part.operators(*values) for part in space.parts for values in product(*(choices[g] for g in part.genes))}


def _table_names(records: Operators) -> list[str]:
    """What Once-for-All's tables call the pieces of one part: convolutions, inverted residuals, pooling, classifier."""
    names, rest = [], list(records)
    while rest:
        expands = rest[0].kernel == 1 and rest[0].groups == 1 and len(rest) > 1 and rest[1].groups > 1
        if expands or rest[0].groups > 1:
            end = next(i for i, record in enumerate(rest) if _projects(record)) + 1
            end += len(rest) > end and rest[end].kind == "add"
            names.append(_inverted_residual_name(rest[:end], rest[int(expands)]))
        else:
            end = 1
            names.append(_layer_name(rest[0]))
        del rest[:end]
    return names


def _projects(record: Operator) -> bool:
    return record.kind == "conv" and record.norm and record.activation is None


def _inverted_residual_name(records: list[Operator], depthwise: Operator) -> str:
    kinds = [record.kind for record in records]
    projection = next(record for record in records if _projects(record))
    return (
        f"expanded_conv-{_shape('input', records[0].side, records[0].in_channels)}"
        f"-{_shape('output', projection.out_side, projection.out_channels)}-expand:{depthwise.in_channels}"
        f"-kernel:{depthwise.kernel}-stride:{depthwise.stride}-idskip:{int('add' in kinds)}"
        f"-se:{int('multiply' in kinds)}-hs:{int(depthwise.activation == 'h_swish')}"
    )


def _layer_name(record: Operator) -> str:
    if record.kind == "linear":
        return f"Logits-{_shape('input', 1, record.in_channels)}-output:{record.out_channels}"
    kind = "AvgPool2D" if record.kind == "pool" else _conv_name(record)
    return (
        f"{kind}-{_shape('input', record.side, record.in_channels)}"
        f"-{_shape('output', record.out_side, record.out_channels)}"
    )


def _conv_name(record: Operator) -> str:
    """The first convolution has stride 2; of the last two the second works on pooled features, without batch norm."""
    if record.stride > 1:
        return "Conv"
    return "Conv_1" if record.norm else "Conv_2"


def _shape(name: str, side: int, channels: int) -> str:
    return f"{name}:{side}x{side}x{channels}"


def _state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file that torch saved, bare or under `state_dict`.

    Raises:
        ValueError: not such a file, or one that holds more than tensors.
    """
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = re.split(r"[.\n]", str(error))[0]
        raise ValueError(f"{path} is not a state dict that torch can read without running code: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} is not a state dict: tensors by name, alone or under `state_dict`")
    return {str(name): value.numpy() for name, value in content.items()}


def _listed(names: Any, most: int = 5) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(ordered[:most]) or "nothing") + more
