"""EfficientNet-Lite0 and ProxylessNAS in plain PyTorch: the trained networks of benchmarks. Needs torch alone."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
# Mean and standard deviation that the networks expect of each channel, on pixels in [0, 1].
PROXYLESS_PIXELS = (0.5,) * 3, (0.5,) * 3
LITE0_PIXELS = (127 / 255,) * 3, (128 / 255,) * 3


def inverted_residual(
    in_channels: int, width: int, out_channels: int, kernel_size: int, stride: int, *, same: bool, expands: bool
) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a block, by the part that they play. same: padded as TensorFlow pads."""
    conv = SamePadded if same else Padded
    if expands:
        yield "expand", conv(in_channels, width, 1)
        yield "expand_norm", nn.BatchNorm2d(width, 1e-3)
    yield "depthwise", conv(width, width, kernel_size, stride, width)
    yield "depthwise_norm", nn.BatchNorm2d(width, 1e-3)
    yield "project", conv(width, out_channels, 1)
    yield "project_norm", nn.BatchNorm2d(out_channels, 1e-3)


class Padded(nn.Conv2d):
    """Padded by half of the kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


class SamePadded(nn.Conv2d):
    """Padded as TensorFlow pads images of even sides, in the style of EfficientNet-PyTorch."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        before, after = (kernel_size - stride) // 2, (kernel_size - stride + 1) // 2
        self.static_padding = nn.ZeroPad2d((before, after, before, after))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, C, H / stride, W / stride)."""
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Block(nn.Module):
    """An inverted residual with ReLU6. expands: unless given, whether the width inside is not the width outside."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        same: bool,
        expands: bool | None = None,
    ) -> None:
        super().__init__()
        expands = width != in_channels if expands is None else expands
        sizes = in_channels, width, out_channels, kernel_size, stride
        self.layers = nn.ModuleDict(inverted_residual(*sizes, same=same, expands=expands))
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W)."""
        y = x
        for name, layer in self.layers.items():
            y = layer(y)
            if name in ("expand_norm", "depthwise_norm"):
                y = F.relu6(y)
        return x + y if self.residual else y


class MobileNetwork(nn.Module):
    """A stem, inverted residuals, a last convolution and a classifier."""

    def __init__(
        self, stem_width: int, blocks: list[Block], width: int, head_width: int, *, same: bool, classes: int = 1000
    ) -> None:
        super().__init__()
        conv = SamePadded if same else Padded
        self.stem, self.stem_norm = conv(3, stem_width, 3, 2), nn.BatchNorm2d(stem_width, 1e-3)
        self.blocks = nn.Sequential(*blocks)
        self.head, self.head_norm = conv(width, head_width, 1), nn.BatchNorm2d(head_width, 1e-3)
        self.classifier = nn.Linear(head_width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W); returns (N, classes)."""
        x = self.blocks(F.relu6(self.stem_norm(self.stem(x))))
        return self.classifier(F.relu6(self.head_norm(self.head(x))).mean((2, 3)))


def lite0(weights: Path) -> MobileNetwork:
    """EfficientNet-Lite0 with its published weights."""
    return in_order(random_lite0(), torch.load(weights, map_location="cpu", weights_only=True))


def random_lite0() -> MobileNetwork:
    """EfficientNet-Lite0 (github.com/tensorflow/tpu, efficientnet/lite) with random weights."""
    rows = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
    )
    blocks, channels = [], 32
    for repeats, kernel_size, stride, ratio, width in (*rows, (1, 3, 1, 6, 320)):
        for number in range(repeats):
            sizes = channels, channels * ratio, width, kernel_size, 1 if number else stride
            blocks.append(Block(*sizes, same=True))
            channels = width
    return MobileNetwork(32, blocks, channels, 1280, same=True)


def proxyless(description: Path, weights: Path) -> tuple[MobileNetwork, int]:
    """A network that ProxylessNAS published, from its description, and its image size."""
    fields = json.loads(description.read_text())
    blocks = []
    for block in fields["blocks"]:
        conv: dict[str, Any] = block["mobile_inverted_conv"]
        if conv["name"] != "ZeroLayer":  # a block that only passes its input on
            width = conv["mid_channels"] or round(conv["in_channels"] * conv["expand_ratio"])
            sizes = conv["in_channels"], width, conv["out_channels"], conv["kernel_size"], conv["stride"]
            blocks.append(Block(*sizes, same=False))
            blocks[-1].residual = block["shortcut"] is not None
    head = fields["feature_mix_layer"]
    network = MobileNetwork(
        fields["first_conv"]["out_channels"], blocks, head["in_channels"], head["out_channels"], same=False
    )
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    return in_order(network, state), fields["resolution"]


def in_order(network: Network, state: Mapping[str, Tensor]) -> Network:
    """A network with the tensors of a state dict that holds equal layers in the same order under other names."""
    own = network.state_dict()
    network.load_state_dict(dict(zip(own, state.values(), strict=True)))
    network.eval()
    return network
