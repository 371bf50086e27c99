"""Reads what Once-for-All published (arXiv:1908.09791): checkpoints, accuracy predictors and latency tables.

ProxylessNAS's latency table (arXiv:1812.00332), from the same authors, is read, too.

The results are plain arrays and numbers. torch and PyYAML load inside the functions that need them. Files of torch are
read with `weights_only=True`, so that nothing in them is executed.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.costs.tables import PartTables
from supernet.families import preset, supernet_class
from supernet.families.mobilenetv2 import MobileNetV2Layout
from supernet.families.mobilenetv3 import MobileNetV3Layout
from supernet.operators import Operator, Operators, Parallel, block_key, flat
from supernet.space import SearchSpace

# The linear layers of an nn.Sequential, with ReLU between them: of the MobileNetV3 predictor, and of the ResNet-50's.
PREDICTOR_LAYERS, RESNET_PREDICTOR_LAYERS = ("0", "2", "4", "6"), ("layers.0.0", "layers.1.0", "layers.2.0", "layers.3")
RESNET_BIAS = "base_acc"  # of the last layer
COUNTER = "num_batches_tracked"  # in every batch norm; no output depends on it


@dataclass(frozen=True)
class Checkpoint:
    """A supernet that Once-for-All published. weights: by the tensor names of our state dict."""

    space: SearchSpace
    weights: Mapping[str, NDArray[Any]]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of one of Once-for-All's supernets. The tensors' names and shapes tell which supernet it is.

    The names may be Once-for-All's current names or the older names that its own `load_state_dict` accepts.

    Raises:
        ValueError: tensors are missing, unknown or misshapen; the message names the file and the tensors. OSError: the
            file cannot be read.
    """
    file_names: dict[str, str] = {}
    tensors = {name: value for name, value in _state_dict(path).items() if not name.endswith(COUNTER)}
    for name in tensors:
        if (other := file_names.setdefault(_short(name), name)) != name:
            raise ValueError(f"{path} holds one tensor twice, as {other} and as {name}")
    matches = [_Match.compare(preset(name), file_names, tensors) for name in LAYERS]
    best = min(matches, key=lambda match: len(match.faults))
    if best.faults:
        raise ValueError(
            f"{path} is none of Once-for-All's checkpoints; the closest is {best.space.name}: {best.describe_faults()}"
        )
    return Checkpoint(best.space, best.weights(tensors))


@dataclass(frozen=True)
class _Match:
    """A space's supernet compared with the tensors of a file.

    shapes: by our names. source: by our names, the file's names, '' if the file lacks the tensor.
    missing, extra, misshapen: the differences, in words for a message.
    """

    space: SearchSpace
    shapes: Mapping[str, tuple[int, ...]]
    source: Mapping[str, str]
    missing: list[str]
    extra: list[str]
    misshapen: list[str]

    @classmethod
    def compare(
        cls, space: SearchSpace, file_names: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]
    ) -> "_Match":
        """Compare a space's supernet with the tensors of a file. file_names: the file's names by their short form."""
        import torch

        with torch.device("meta"):
            state = supernet_class(space.family)(space).state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        published = _published_names(space, [name for name in shapes if not name.endswith(COUNTER)])
        missing, misshapen, source = [], [], {}
        for ours, name in published.items():
            file_name = source[ours] = file_names.get(_short(name), "")
            if not file_name:
                missing.append(name)
            elif tensors[file_name].shape != shapes[ours]:
                misshapen.append(f"{file_name} {tensors[file_name].shape} instead of {shapes[ours]}")
        used = set(source.values())
        return cls(space, shapes, source, missing, [name for name in tensors if name not in used], misshapen)

    @property
    def faults(self) -> list[str]:
        return self.missing + self.extra + self.misshapen

    def describe_faults(self) -> str:
        kinds = (("missing", self.missing), ("unknown", self.extra), ("of another shape", self.misshapen))
        return "; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds if names)

    def weights(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {
            name: np.zeros(shape, np.int64) if name.endswith(COUNTER) else tensors[self.source[name]]
            for name, shape in self.shapes.items()
        }


def _short(name: str) -> str:
    """A form of a tensor's name that is the same in every version of Once-for-All."""
    name = name.replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\.(bn|conv|linear)(\.\1)+\.", r".\1.", name)


def _published_names(space: SearchSpace, ours: Iterable[str]) -> dict[str, str]:
    """By our names, Once-for-All's current names. Layers are paired in the order in which our supernet holds them."""
    layers: dict[str, list[str]] = {}
    for name in ours:
        match = re.fullmatch(r"(.*?)\.((?:matrices\.)?\w+)", name)
        assert match is not None
        layers.setdefault(match[1], []).append(match[2])
    return {
        f"{layer}.{tensor}": _published_tensor(published, tensor)
        for (layer, tensors), published in zip(layers.items(), LAYERS[space.name](space), strict=True)
        for tensor in tensors
    }


def _published_tensor(layer: str, tensor: str) -> str:
    """A tensor's published name. Kernel matrices belong to the layer around the convolution."""
    if tensor.startswith("matrices."):
        kernel_size = int(tensor.removeprefix("matrices."))
        return f"{layer.rpartition('.')[0]}.{kernel_size + 2}to{kernel_size}_matrix"
    return f"{layer}.{tensor}"


def _mobile_layers(space: SearchSpace) -> list[str]:
    """The published names of all layers with weights of a MobileNetV3 or ProxylessNAS, in our supernet's order."""
    layout = space.layout
    assert isinstance(layout, MobileNetV3Layout)
    layers = ["first_conv.conv", "first_conv.bn", *_inverted_residual_layers("blocks.0", elastic=False)]
    number = 0
    for depths, squeeze_excite in zip(space.depths, layout.squeeze_excite, strict=True):
        for _ in range(depths[-1]):
            number += 1
            layers += _inverted_residual_layers(f"blocks.{number}", squeeze_excite=squeeze_excite)
    if layout.feature_width is None:
        return [*layers, "feature_mix_layer.conv", "feature_mix_layer.bn", "classifier.linear"]
    return [*layers, "final_expand_layer.conv", "final_expand_layer.bn", "feature_mix_layer.conv", "classifier.linear"]


def _inverted_residual_layers(block: str, *, elastic: bool = True, squeeze_excite: bool = False) -> list[str]:
    layers = []
    for piece in ("inverted_bottleneck", "depth_conv", "point_linear")[0 if elastic else 1 :]:
        layers += [f"{block}.conv.{piece}.{kind}{f'.{kind}' if elastic else ''}" for kind in ("conv", "bn")]
        if piece == "depth_conv" and squeeze_excite:
            layers += [f"{block}.conv.depth_conv.se.fc.{layer}" for layer in ("reduce", "expand")]
    return layers


def _resnet_layers(space: SearchSpace) -> list[str]:
    """The published names of all layers with weights of a ResNet50-D, in our supernet's order: shortcuts first."""
    blocks = ["input_stem.0", "input_stem.1.conv", "input_stem.2"]
    number = 0
    for depths in space.depths:
        for block in range(depths[-1]):
            pieces = ("conv1", "conv2", "conv3") if block else ("downsample", "conv1", "conv2", "conv3")
            blocks += [f"blocks.{number}.{piece}" for piece in pieces]
            number += 1
    return [*(f"{block}.{kind}.{kind}" for block in blocks for kind in ("conv", "bn")), "classifier.linear.linear"]


# By preset, the published names of the supernet's layers.
LAYERS: dict[str, Callable[[SearchSpace], list[str]]] = {
    "mbv3-imagenet-w1.0": _mobile_layers,
    "mbv3-imagenet-w1.2": _mobile_layers,
    "proxyless-imagenet-w1.3": _mobile_layers,
    "resnet50d-imagenet": _resnet_layers,
}


def read_predictor(path: Path) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]:
    """The layers of one of Once-for-All's accuracy predictors: weights (inputs, outputs) and biases (outputs,).

    Raises:
        ValueError: the file is not such a predictor; the message names the file. OSError: the file cannot be read.
    """
    tensors = _state_dict(path)
    if RESNET_BIAS in tensors:  # the last layer has no bias, and this is added to its output
        tensors = {**tensors, f"{RESNET_PREDICTOR_LAYERS[-1]}.bias": tensors[RESNET_BIAS].reshape(-1)}
        del tensors[RESNET_BIAS]
        layers = RESNET_PREDICTOR_LAYERS
    else:
        layers = PREDICTOR_LAYERS
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    if tensors.keys() != names:
        raise ValueError(
            f"{path} is not Once-for-All's accuracy predictor: it holds {_listed(tensors)}, not {_listed(names)}"
        )
    return tuple((tensors[f"{layer}.weight"].T, tensors[f"{layer}.bias"]) for layer in layers)


def read_latency_tables(path: Path, space: SearchSpace) -> dict[int, dict[str, float]]:
    """Latencies in milliseconds by resolution and `block_key`.

    path: a folder of Once-for-All's tables, `RESOLUTION_lookup_table.yaml`, or one file in the form of ProxylessNAS's
    `mobile_trim.yaml`, whose entries name their image sizes themselves.

    A resolution without a table has no entry. The same block can have different latencies at two resolutions, because
    each of Once-for-All's tables was measured separately.

    Raises:
        ValueError: the space is of another family, no resolution has a table, a file is not a latency table, or a file
            lacks a block; the message names the space or the file.
    """
    if path.is_file():
        return _read_proxyless_table(path, space)
    if not isinstance(space.layout, MobileNetV3Layout):
        raise ValueError(f"Once-for-All's latency tables are for MobileNetV3 spaces, and {space.name} is not one")
    files = latency_table_files(path, space)
    if not files:
        resolutions = ", ".join(map(str, space.resolutions))
        raise ValueError(
            f"{path} holds no RESOLUTION_lookup_table.yaml for a resolution of {space.name}: {resolutions}"
        )
    return {resolution: _read_table(file, space, resolution) for resolution, file in files.items()}


def latency_table_files(directory: Path, space: SearchSpace) -> dict[int, Path]:
    """The files of the space's Once-for-All tables that a folder holds, by resolution."""
    paths = {resolution: directory / f"{resolution}_lookup_table.yaml" for resolution in space.resolutions}
    return {resolution: path for resolution, path in paths.items() if path.is_file()}


def _read_table(path: Path, space: SearchSpace, resolution: int) -> dict[str, float]:
    rows, names = _rows(path), _names_by_block(space, resolution, _table_names)
    if missing := _missing(rows, names):
        raise ValueError(f"{path} lacks {_listed(missing)}; the table is incomplete, or not for {space.name}")
    return _block_times(path, rows, names)


def _read_proxyless_table(path: Path, space: SearchSpace) -> dict[int, dict[str, float]]:
    """Latencies by resolution and `block_key`, at every resolution at which the file has all entries."""
    if not _has_plain_inverted_residuals(space):
        raise ValueError(
            f"{path} is one file, in ProxylessNAS's form, which is for inverted residuals with ReLU6 and without "
            f"squeeze-and-excite, and {space.name} has others; give a folder of RESOLUTION_lookup_table.yaml"
        )
    rows = _rows(path)
    names = {resolution: _names_by_block(space, resolution, _proxyless_names) for resolution in space.resolutions}
    missing = {resolution: _missing(rows, blocks) for resolution, blocks in names.items()}
    complete = [resolution for resolution, entries in missing.items() if not entries]
    if not complete:
        closest = min(missing, key=lambda resolution: len(missing[resolution]))
        raise ValueError(
            f"{path} is complete at no resolution; of {space.name} at {closest} it lacks {_listed(missing[closest])}; "
            "the table is incomplete, or of another space"
        )
    return {resolution: _block_times(path, rows, names[resolution]) for resolution in complete}


def _has_plain_inverted_residuals(space: SearchSpace) -> bool:
    layout = space.layout
    if isinstance(layout, MobileNetV3Layout):
        return not any(layout.squeeze_excite) and layout.feature_width is None and {*layout.activations} == {"relu6"}
    return isinstance(layout, MobileNetV2Layout)


Names = Mapping[Operators, list[str]]  # by the records of a part, the entries of a table that it takes


def _rows(path: Path) -> dict[str, Any]:
    """The entries of a table by name."""
    import yaml

    try:
        rows = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(rows, dict):
        raise ValueError(f"{path} is not a latency table: it holds no entries by name")
    return rows


def _names_by_block(space: SearchSpace, resolution: int, names: Callable[[Operators], list[str]]) -> Names:
    blocks = dict.fromkeys(PartTables(space, resolution).operators)
    return {records: names(records) for records in blocks if records}


def _missing(rows: Mapping[str, Any], names: Names) -> list[str]:
    return sorted({name for entries in names.values() for name in entries} - rows.keys())


def _block_times(path: Path, rows: Mapping[str, Any], names: Names) -> dict[str, float]:
    milliseconds = {name: _mean(path, name, rows[name]) for entries in names.values() for name in entries}
    return {block_key(records): sum(milliseconds[name] for name in entries) for records, entries in names.items()}


def _mean(path: Path, name: str, row: Any) -> float:
    value = row.get("mean") if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: {name} needs a mean that is a positive number of ms, not {value!r}")
    return float(value)


def _table_names(records: Operators) -> list[str]:
    """The entries of one part in Once-for-All's tables: one for each inverted residual and each other layer."""
    if any(isinstance(record, Operator) and record.groups > 1 for record in records):
        return [_inverted_residual_name(records, residual=False)]
    return [
        _layer_name(record) if isinstance(record, Operator) else _inverted_residual_name(record.branches[1])
        for record in records
    ]


def _proxyless_names(records: Operators) -> list[str]:
    """The entries of one part in ProxylessNAS's table. `Logits` is everything after the last convolution."""
    first, last = records[0], records[-1]
    if isinstance(first, Operator) and first.groups == 1 and first.kernel_size > 1:  # the stem and the block after it
        return [_layer_name(first), _proxyless_block_name(records[1:])]
    if isinstance(first, Operator) and isinstance(last, Operator) and last.kind == "linear":
        inputs = _shape("input", first.out_side, first.out_channels)
        return [_layer_name(first), f"Logits-{inputs}-output:{last.out_channels}"]
    return [_proxyless_block_name(records)]


def _proxyless_block_name(records: Operators) -> str:
    """Unlike in Once-for-All's tables, `expand` is the ratio, and nothing is said of activations."""
    residual = isinstance(records[0], Parallel)
    body = list(flat(records))
    depthwise = next(record for record in body if record.groups > 1)
    return (
        f"expanded_conv-{_shape('input', body[0].side, body[0].in_channels)}"
        f"-{_shape('output', body[-1].out_side, body[-1].out_channels)}"
        f"-expand:{round(depthwise.in_channels / body[0].in_channels)}-kernel:{depthwise.kernel_size}"
        f"-stride:{depthwise.stride}-idskip:{int(residual)}"
    )


def _inverted_residual_name(body: Operators, *, residual: bool = True) -> str:
    depthwise = next(record for record in flat(body) if record.groups > 1)
    inputs = _shape("input", body[0].side, body[0].in_channels)
    outputs = _shape("output", body[-1].out_side, body[-1].out_channels)
    return (
        f"expanded_conv-{inputs}-{outputs}-expand:{depthwise.in_channels}-kernel:{depthwise.kernel_size}"
        f"-stride:{depthwise.stride}-idskip:{int(residual)}-se:{int(any(isinstance(r, Parallel) for r in body))}"
        f"-hs:{int(depthwise.activation == 'h_swish')}"
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
    """The first convolution has stride 2. The last convolution works on pooled features and has no batch norm."""
    if record.stride > 1:
        return "Conv"
    return "Conv_1" if record.norm else "Conv_2"


def _shape(name: str, side: int, channels: int) -> str:
    return f"{name}:{side}x{side}x{channels}"


def _state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file that torch saved: a state dict, alone or under the key `state_dict`.

    Raises:
        ValueError: torch cannot read the file, the file holds something other than tensors, or a tensor is not finite.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file breaks the unpickler in many ways
        reason = re.split(r"[.\n]", str(error))[0]
        raise ValueError(f"{path} is not a state dict that torch can read without running code: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} is not a state dict: tensors by name, alone or under `state_dict`")
    tensors = {str(name): value.detach().float().numpy() for name, value in content.items()}
    if not_finite := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
        raise ValueError(f"{path} holds numbers that are not finite in {_listed(not_finite)}")
    return tensors


def _listed(names: Any, limit: int = 10) -> str:
    """The first few names, and how many names follow."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return (", ".join(ordered[:limit]) or "nothing") + more
