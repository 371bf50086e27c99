"""Elastic layers: what varies (width, kernel size) is an argument, never state. And the static layers they become."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from operator import add, mul

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.depthwise import DepthwiseConv2d, depthwise_conv2d
from supernet.operators import Activation, Join, Operator, Operators, Parallel
from supernet.pointwise import GlobalAvgPool2d, PointwiseConv2d, pointwise_conv2d
from supernet.space import Architecture, SearchSpace

_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish, "h_sigmoid": nn.Hardsigmoid}


def activation(name: Activation, *, inplace: bool = True) -> nn.Module:
    """The module of an activation by its name in an operator record; the identity for None."""
    return _ACTIVATIONS[name](inplace=inplace) if name else nn.Identity()


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
    def sort_channels(self, trained: Sequence[Sequence[int]]) -> None:
        """Reorder the elastic channels so that slices keep the most important ones (arXiv:1908.09791, section 3.2).

        trained: per gene, the indices of the choices already trained (`SearchSpace.open_choices`). The slices of these,
        hence their outputs, stay what they are: channels move only within the segments between them.
        """

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
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def first(tensor: Tensor, *sizes: int) -> Tensor:
    """The first channels of a shared tensor along its first dims; no slice where all are wanted.

    A slice costs a copy of its gradient, as large as the whole tensor.
    """
    for dim, size in enumerate(sizes):
        if size != tensor.shape[dim]:
            tensor = tensor.narrow(dim, 0, size)
    return tensor


class ElasticConv(nn.Module):
    """1 x 1 convolution whose widths are arguments: the first rows and columns of the largest weight."""

    def __init__(self, max_in: int, max_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_out, max_in, 1, 1))
        self.bias = nn.Parameter(torch.empty(max_out)) if bias else None

    def weight_for(self, in_channels: int, out_channels: int) -> Tensor:
        """(out_channels, in_channels, 1, 1). Used by `forward` and `copy_to` alike."""
        return first(self.weight, out_channels, in_channels)

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, out_channels, H, W)."""
        bias = None if self.bias is None else first(self.bias, out_channels)
        return pointwise_conv2d(x, self.weight_for(x.shape[1], out_channels), bias)

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
        weight = first(self.weight, channels)
        for smaller in reversed(self.sides[:-1]):
            if weight.shape[-1] <= side:
                break
            margin = (weight.shape[-1] - smaller) // 2
            centre = F.pad(weight, (-margin,) * 4).view(channels, -1)  # one operation; slices of both sides are two
            weight = F.linear(centre, self.matrices[str(smaller)]).view(channels, 1, smaller, smaller)
        return weight

    def forward(self, x: Tensor, side: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, C, H / stride, W / stride)."""
        return depthwise_conv2d(x, self.weight_for(x.shape[1], side), self.stride)

    def copy_to(self, conv: nn.Conv2d) -> None:
        """Copy the transformed slice that fits into a static convolution."""
        conv.weight.copy_(self.weight_for(conv.out_channels, conv.kernel_size[0]))


class ElasticBatchNorm(nn.Module):
    """Batch norm over the first channels: scale, shift and running statistics are slices of the largest."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, max_channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
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
            first(self.running_mean, channels),
            first(self.running_var, channels),
            first(self.weight, channels),
            first(self.bias, channels),
            self.training,
            self.momentum,
            self.eps,
        )

    def copy_to(self, norm: nn.BatchNorm2d) -> None:
        """Copy the slices that fit into a static batch norm."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(self, name)[: norm.num_features])


def permute(tensor: Tensor | None, order: Tensor, dim: int = 0) -> None:
    """Reorder a parameter or buffer in place. order: indices along `dim`."""
    assert tensor is not None
    tensor.copy_(tensor.index_select(dim, order))


def sorted_within(importance: Tensor, cuts: Iterable[int]) -> Tensor:
    """(C,) an order that descends in importance, (C,), within each segment between the cuts."""
    segments = pairwise(sorted({0, *cuts, len(importance)}))
    return torch.cat([start + importance[start:end].argsort(descending=True, stable=True) for start, end in segments])


# Static modules from operator records.


def static_conv(record: Operator) -> nn.Sequential:
    """Convolution, batch norm and activation of one record, with fresh weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if record.groups == record.in_channels == record.out_channels and not record.bias:
        layers["conv"] = DepthwiseConv2d(record.out_channels, record.kernel, record.stride)
    elif (record.kernel, record.stride, record.groups) == (1, 1, 1):
        layers["conv"] = PointwiseConv2d(record.in_channels, record.out_channels, bias=record.bias)
    else:
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
        layers["norm"] = nn.BatchNorm2d(record.out_channels, record.norm_eps)
    if record.activation:
        # What a pointwise convolution makes may be a view, of which autograd takes changes in place by a detour.
        layers["activation"] = activation(record.activation, inplace=record.norm)
    return nn.Sequential(layers)


class Branches(nn.Module):
    """Branches over one input, or each over its share of the channels, joined."""

    def __init__(self, branches: Iterable[nn.Module], join: Join, act: Activation, *, split: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join
        self.split = split
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns what the branches make of it, joined."""
        count = len(self.branches)
        shares = x.chunk(count, 1) if self.split else (x,) * count
        outputs = [branch(shares[i]) for i, branch in enumerate(self.branches)]
        if self.join == "concat":
            return self.act(torch.cat(outputs, 1))
        return self.act(reduce(add if self.join == "add" else mul, outputs))


def static_layers(operators: Operators) -> nn.Sequential:
    """The static network of records that run one after another, with fresh weights."""
    layers: list[nn.Module] = []
    for record in operators:
        if isinstance(record, Parallel):
            branches = map(static_layers, record.branches)
            layers.append(Branches(branches, record.join, record.activation, split=record.split))
        elif record.kind == "conv":
            layers.append(static_conv(record))
        elif record.kind == "linear":
            layers += [nn.Flatten(), nn.Linear(record.in_channels, record.out_channels, record.bias)]
        elif record.kind == "pool":
            layers.append(GlobalAvgPool2d())
        elif record.kind == "max_pool":
            layers.append(nn.MaxPool2d(record.kernel, record.stride, record.kernel // 2))
        elif record.kind == "avg_pool":
            layers.append(nn.AvgPool2d(record.kernel, record.stride, ceil_mode=True))
        else:
            layers.append(nn.ChannelShuffle(record.in_channels // 2))
    return nn.Sequential(*layers)
