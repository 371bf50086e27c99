"""Once-for-All's supernets on generated weights, for which its own code computed the fixtures' logits."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supernet.space import Architecture

FIXTURES = Path(__file__).parents[1] / "fixtures" / "ofa"


def fixture(name: str) -> Any:
    """A fixture: `state_dict_shapes` by name, and `subnets`."""
    return json.loads((FIXTURES / name).read_text())


def generated_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict by Once-for-All's own names."""
    return {name: torch.from_numpy(np.asarray(_fill(name, tuple(shape)))) for name, shape in shapes.items()}


def _fill(name: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(zlib.crc32(f"public:{name}".encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    z = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(z)
    if name.endswith("running_mean"):
        return 0.1 * z
    if name.endswith("_matrix"):
        return np.eye(shape[0], dtype=np.float32) + 0.05 * z
    if len(shape) == 4:
        return z * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3])).astype(np.float32)
    if name.endswith(".bn.weight"):
        return 1 + 0.1 * z
    return 0.05 * z


def image(resolution: int) -> torch.Tensor:
    """(2, 3, R, R) what the logits were computed on."""
    rng = np.random.default_rng(zlib.crc32(f"public:image:{resolution}".encode()))
    return torch.from_numpy(rng.standard_normal((2, 3, resolution, resolution)).astype(np.float32))


def architecture(subnet: dict[str, Any]) -> Architecture:
    """The architecture of one of a fixture's subnets, in our form or in Once-for-All's of 20 blocks and five depths."""
    if "arch" in subnet:
        return Architecture.from_json(subnet["arch"])
    genes = list(zip(subnet["kernel_sizes"], subnet["expand_ratios"], strict=True))
    stages = tuple(tuple(genes[4 * s : 4 * s + depth]) for s, depth in enumerate(subnet["depths"]))
    return Architecture(subnet["resolution"], stages)


def tolerance(subnet: dict[str, Any]) -> float:
    """The largest difference that a logit may have."""
    return 1e-4 * max(1.0, float(np.abs(subnet["logits"]).max()))


# Its latency tables, as its own `LatencyEstimator` names their entries, with times that differ in every entry.

WIDTHS = {"mbv3-imagenet-w1.0": (16, (24, 40, 80, 112, 160), 960, 1280)}
WIDTHS["mbv3-imagenet-w1.2"] = (24, (32, 48, 96, 136, 192), 1152, 1536)
STRIDES, SQUEEZE_EXCITE, H_SWISH = (2, 2, 2, 1, 2), (0, 1, 0, 1, 1), (0, 0, 1, 1, 1)


def entries(space: str, arch: Architecture) -> list[str]:
    """The entries of a table whose times add up to an architecture's."""
    stem, widths, head, features = WIDTHS[space]
    side = arch.resolution // 2
    names = [
        f"Conv-input:{arch.resolution}x{arch.resolution}x3-output:{side}x{side}x{stem}",
        f"expanded_conv-input:{side}x{side}x{stem}-output:{side}x{side}x{stem}"
        f"-expand:{stem}-kernel:3-stride:1-idskip:1-se:0-hs:0",
    ]
    inputs = stem
    for stage, blocks in enumerate(arch.stages):
        for number, (kernel, ratio) in enumerate(blocks):
            stride = 1 if number else STRIDES[stage]
            after = -(-side // stride)
            names.append(
                f"expanded_conv-input:{side}x{side}x{inputs}-output:{after}x{after}x{widths[stage]}"
                f"-expand:{inputs * int(ratio)}-kernel:{kernel}-stride:{stride}-idskip:{int(number > 0)}"
                f"-se:{SQUEEZE_EXCITE[stage]}-hs:{H_SWISH[stage]}"
            )
            side, inputs = after, widths[stage]
    return [
        *names,
        f"Conv_1-input:{side}x{side}x{inputs}-output:{side}x{side}x{head}",
        f"AvgPool2D-input:{side}x{side}x{head}-output:1x1x{head}",
        f"Conv_2-input:1x1x{head}-output:1x1x{features}",
        f"Logits-input:1x1x{features}-output:1000",
    ]


def milliseconds(resolution: int, entry: str) -> float:
    """A time of between 0.1 and 1.1 ms that depends on both."""
    return 0.1 + zlib.crc32(f"{resolution} {entry}".encode()) % 1000 / 1000


def table(space: str, resolution: int) -> dict[str, dict[str, float]]:
    """A whole table, every entry that any architecture needs."""
    uniform = [(kernel, ratio) for kernel in (3, 5, 7) for ratio in (3, 4, 6)]
    names = {name for block in uniform for name in entries(space, Architecture(resolution, ((block,) * 4,) * 5))}
    return {name: {"count": 100, "mean": milliseconds(resolution, name), "std": 0.01} for name in sorted(names)}


def write_tables(folder: Path, space: str, resolutions: tuple[int, ...]) -> Path:
    """Tables as files, as they are published."""
    folder.mkdir(exist_ok=True)
    for resolution in resolutions:
        (folder / f"{resolution}_lookup_table.yaml").write_text(json.dumps(table(space, resolution)))  # JSON is YAML
    return folder


# ProxylessNAS's latency table, as `ProxylessNASLatencyTable` of Once-for-All's code names its entries. The published
# file is not at hand; this one has its form.

PROXYLESS_WIDTHS = {
    "proxyless-imagenet-w1.0": (24, 40, 80, 96, 192, 320),
    "fairnas-imagenet": (32, 40, 80, 96, 192, 320),
}
PROXYLESS_STRIDES = (2, 2, 2, 1, 2, 1)


def proxyless_entries(space: str, resolution: int, stages: Sequence[Sequence[Sequence[float]]]) -> list[str]:
    """The entries whose times add up to a network's. stages: per stage, each block's kernel size and ratio."""
    side, inputs = resolution // 2, 16
    names = [
        f"Conv-input:{resolution}x{resolution}x3-output:{side}x{side}x32",
        f"expanded_conv-input:{side}x{side}x32-output:{side}x{side}x16-expand:1-kernel:3-stride:1-idskip:0",
    ]
    for blocks, outputs, first_stride in zip(stages, PROXYLESS_WIDTHS[space], PROXYLESS_STRIDES, strict=True):
        for number, (kernel, ratio) in enumerate(blocks):
            stride = 1 if number else first_stride
            after = -(-side // stride)
            names.append(
                f"expanded_conv-input:{side}x{side}x{inputs}-output:{after}x{after}x{outputs}"
                f"-expand:{ratio}-kernel:{kernel}-stride:{stride}-idskip:{int(number > 0)}"
            )
            side, inputs = after, outputs
    return [
        *names,
        f"Conv_1-input:{side}x{side}x{inputs}-output:{side}x{side}x1280",
        f"Logits-input:{side}x{side}x1280-output:1000",
    ]


def write_proxyless_table(path: Path, space: str, resolution: int = 224) -> Path:
    """A table as a file: every entry that any architecture needs at one resolution."""
    uniform = [(kernel, ratio) for kernel in (3, 5, 7) for ratio in (3, 6)]
    stages = [[[block] * 4] * 6 for block in uniform]
    names = {name for each in stages for name in proxyless_entries(space, resolution, each)}
    rows = {name: {"mean": milliseconds(resolution, name), "std": 0.01} for name in sorted(names)}
    path.write_text(json.dumps(rows))  # JSON is YAML
    return path


def resnet_predictor_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of a ResNet-50 predictor that has learnt nothing, in the form of Once-for-All's code."""
    generator = torch.Generator().manual_seed(seed)
    state = {"base_acc": torch.tensor([0.75])}
    for layer, inputs in {"layers.0.0": 82, "layers.1.0": 400, "layers.2.0": 400}.items():
        state[f"{layer}.weight"] = (2 / inputs) ** 0.5 * torch.randn(400, inputs, generator=generator)
        state[f"{layer}.bias"] = 0.1 * torch.randn(400, generator=generator)
    state["layers.3.weight"] = 0.05 * (2 / 400) ** 0.5 * torch.randn(1, 400, generator=generator)
    return state


def predictor_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of an accuracy predictor that has learnt nothing: four linear layers, accuracies around 0.7."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (inputs, outputs) in {"0": (128, 400), "2": (400, 400), "4": (400, 400), "6": (400, 1)}.items():
        spread = (2 / inputs) ** 0.5 * (0.05 if outputs == 1 else 1)
        state[f"{layer}.weight"] = spread * torch.randn(outputs, inputs, generator=generator)
        state[f"{layer}.bias"] = torch.full((outputs,), 0.7 if outputs == 1 else 0.0)
    return state
