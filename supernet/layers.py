"""Elastic layers: what varies (width, kernel size) is an argument, never state. And the static layers they become."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.operators import Activation, Operator, Operators
from supernet.space import Architecture, SearchSpace

_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish, "h_sigmoid": nn.Hardsigmoid}


def activation(name: Activation) -> nn.Module:
    """The module of an activation by its name in an operator record; the identity for None."""
    return _ACTIVATIONS[name](inplace=True) if name else nn.Identity()


class Supernet(nn.Module, ABC):
    """Every subnet of a space in one set of weights. The architecture is an argument; nothing is ever "active"."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits of one subnet. images: (N, C, R, R), normalised, R = arch.resolution."""

    @abstractmethod
    def extract(self, arch: Architecture) -> nn.Sequential:
        """The subnet as a plain static network with its own copy of the weights and statistics.

        In evaluation mode its outputs equal the supernet's. Its statistics were shared by all subnets in training, so
        recalibrate it (`supernet.calibrate`) before use.
        """

    @abstractmethod
    def sort_channels(self, open_values: Sequence[float]) -> None:
        """Reorder the elastic channels so that slices keep the most important ones (arXiv:1908.09791, section 3.2).

        open_values: choices of the width gene already trained. Their slices, hence their outputs, stay what they are:
        channels move only within the segments between them.
        """

    @staticmethod
    @abstractmethod
    def build_part(name: str, operators: Operators) -> nn.Module:
        """A static module with fresh weights for one part of the network, from its operator records."""

    def check_side(self, images: Tensor, arch: Architecture) -> None:
        """Refuse images whose side is not the architecture's resolution, which would silently cost accuracy."""
        if tuple(images.shape[2:]) != (arch.resolution, arch.resolution):
            side = "x".join(map(str, images.shape[2:]))
            raise ValueError(f"images are {side} pixels; the architecture's resolution is {arch.resolution}")


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights: convolutions normal with fan-out variance, linear layers uniform, kernel matrices the identity."""
    for layer in module.modules():
        if isinstance(layer, ElasticDepthwiseConv):
            layer.reset(generator)
        elif isinstance(layer, nn.Conv2d | ElasticConv):
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel() // getattr(layer, "groups", 1)
            nn.init.normal_(layer.weight, std=(2.0 / fan_out) ** 0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)


class ElasticConv(nn.Module):
    """1 x 1 convolution whose widths are arguments: the first rows and columns of the largest weight."""

    def __init__(self, max_in: int, max_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_out, max_in, 1, 1))
        self.bias = nn.Parameter(torch.empty(max_out)) if bias else None

    def weight_for(self, in_channels: int, out_channels: int) -> Tensor:
        """(out_channels, in_channels, 1, 1). Used by `forward` and `copy_to` alike."""
        return self.weight[:out_channels, :in_channels]

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, out_channels, H, W)."""
        bias = None if self.bias is None else self.bias[:out_channels]
        return F.conv2d(x, self.weight_for(x.shape[1], out_channels), bias)

    def copy_to(self, conv: nn.Conv2d) -> None:
        """Copy the slice that fits into a static convolution."""
        conv.weight.copy_(self.weight_for(conv.in_channels, conv.out_channels))
        if self.bias is not None:
            conv.bias.copy_(self.bias[: conv.out_channels])


class ElasticDepthwiseConv(nn.Module):
    """Depthwise convolution whose width and kernel side are arguments.

    A smaller kernel is the centre of the next larger one times a learned matrix, shared by all channels of the layer
    (kernel transforms, arXiv:1908.09791, section 3.2).
    """

    def __init__(self, max_channels: int, sides: Sequence[int], stride: int) -> None:
        super().__init__()
        self.sides = tuple(sorted(sides))
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(max_channels, 1, self.sides[-1], self.sides[-1]))
        self.matrices = nn.ParameterDict({str(side): torch.eye(side**2) for side in self.sides[:-1]})

    def reset(self, generator: torch.Generator) -> None:
        """Fresh weights; kernel matrices become the identity, so that a smaller kernel starts as the centre."""
        nn.init.normal_(self.weight, std=(2.0 / self.sides[-1] ** 2) ** 0.5, generator=generator)
        for matrix in self.matrices.values():
            nn.init.eye_(matrix)

    def weight_for(self, channels: int, side: int) -> Tensor:
        """(channels, 1, side, side). Used by `forward` and `copy_to` alike."""
        weight = self.weight[:channels]
        for smaller in reversed(self.sides[:-1]):
            if weight.shape[-1] <= side:
                break
            margin = (weight.shape[-1] - smaller) // 2
            centre = weight[:, :, margin : margin + smaller, margin : margin + smaller].reshape(channels, -1)
            weight = F.linear(centre, self.matrices[str(smaller)]).view(channels, 1, smaller, smaller)
        return weight

    def forward(self, x: Tensor, side: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, C, H / stride, W / stride)."""
        weight = self.weight_for(x.shape[1], side)
        return F.conv2d(x, weight, stride=self.stride, padding=side // 2, groups=x.shape[1])

    def copy_to(self, conv: nn.Conv2d) -> None:
        """Copy the transformed slice that fits into a static convolution."""
        conv.weight.copy_(self.weight_for(conv.out_channels, conv.kernel_size[0]))


class ElasticBatchNorm(nn.Module):
    """Batch norm over the first channels: scale, shift and running statistics are slices of the largest."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, max_channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))
        self.register_buffer("running_mean", torch.zeros(max_channels))
        self.register_buffer("running_var", torch.ones(max_channels))
        self.momentum = momentum
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) with C at most the largest. In training the sliced running statistics move in place."""
        channels = x.shape[1]
        return F.batch_norm(
            x,
            self.running_mean[:channels],
            self.running_var[:channels],
            self.weight[:channels],
            self.bias[:channels],
            self.training,
            self.momentum,
            self.eps,
        )

    def copy_to(self, norm: nn.BatchNorm2d) -> None:
        """Copy the slices that fit into a static batch norm."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(self, name)[: norm.num_features])


def static_conv(record: Operator) -> nn.Sequential:
    """Convolution, batch norm and activation of one record, with fresh weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        record.in_channels,
        record.out_channels,
        record.kernel,
        record.stride,
        record.kernel // 2,
        groups=record.groups,
        bias=record.bias,
    )
    if record.norm:
        layers["norm"] = nn.BatchNorm2d(record.out_channels)
    if record.activation:
        layers["activation"] = activation(record.activation)
    return nn.Sequential(layers)


class SqueezeExcite(nn.Module):
    """Channel attention: x times a gate computed from its mean (arXiv:1709.01507)."""

    def __init__(self, reduce: Operator, expand: Operator) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = static_conv(reduce)
        self.expand = static_conv(expand)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W), and so is the result."""
        return x * self.expand(self.reduce(self.pool(x)))


class Residual(nn.Module):
    """x plus what the body makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W), and so is the result."""
        return x + self.body(x)


def static_layers(operators: Operators) -> nn.Sequential | Residual:
    """The static module of consecutive records, with fresh weights; a record of kind add closes a residual around all.

    Raises:
        ValueError: a record has no static layer.
    """
    layers: list[nn.Module] = []
    records = list(operators)
    while records:
        record = records.pop(0)
        if record.kind == "conv":
            layers.append(static_conv(record))
        elif record.kind == "linear":
            layers += [nn.Flatten(), nn.Linear(record.in_channels, record.out_channels)]
        elif record.kind == "pool" and [following.kind for following in records[:3]] == ["conv", "conv", "multiply"]:
            layers.append(SqueezeExcite(records[0], records[1]))
            del records[:3]
        elif record.kind == "pool":
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif record.kind == "add" and not records:
            return Residual(nn.Sequential(*layers))
        else:
            raise ValueError(f"no static layer for {record}")
    return nn.Sequential(*layers)
