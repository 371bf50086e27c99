"""Static networks from operator records: the layers of an extracted subnet."""

from collections import OrderedDict
from collections.abc import Iterable
from functools import reduce
from operator import add, mul

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.networks.depthwise import DepthwiseConv2d
from supernet.networks.noise import Classifier, residual_branch
from supernet.networks.pointwise import GlobalAvgPool2d, PointwiseConv2d
from supernet.operators import Activation, Join, Operator, Operators, Parallel

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "h_swish": nn.Hardswish,
    "h_sigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
}
_NEVER_INPLACE = ("gelu", "sigmoid")


def activation(name: Activation, *, inplace: bool = True) -> nn.Module:
    """The module of an activation in an operator record; the identity for None."""
    if name is None:
        return nn.Identity()
    return _ACTIVATIONS[name]() if name in _NEVER_INPLACE else _ACTIVATIONS[name](inplace=inplace)


def static_conv(record: Operator) -> nn.Sequential:
    """Convolution, batch norm and activation of one record, with fresh weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    half_padded = record.padding is None and record.dilation == 1
    padding = record.kernel_size // 2 if record.padding is None else record.padding
    if record.groups == record.in_channels == record.out_channels and half_padded and not record.bias:
        layers["conv"] = DepthwiseConv2d(record.out_channels, record.kernel_size, record.stride)
    elif (record.kernel_size, record.stride, record.groups) == (1, 1, 1) and half_padded:
        layers["conv"] = PointwiseConv2d(record.in_channels, record.out_channels, bias=record.bias)
    else:
        sizes = record.in_channels, record.out_channels, record.kernel_size, record.stride, padding, record.dilation
        conv = nn.Conv2d(*sizes, groups=record.groups, bias=record.bias)
        if record.extra_padding:
            conv = UnevenConv2d(*sizes, groups=record.groups, bias=record.bias, extra_padding=record.extra_padding)
        layers["conv"] = conv
    _append_norm_and_activation(layers, record)
    return nn.Sequential(layers)


def static_identity(record: Operator) -> nn.Sequential:
    """A batch norm or an activation that follows no convolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    _append_norm_and_activation(layers, record)
    return nn.Sequential(layers)


def _append_norm_and_activation(layers: OrderedDict[str, nn.Module], record: Operator) -> None:
    if record.norm:
        layers["norm"] = nn.BatchNorm2d(record.out_channels, record.norm_eps)
    if record.activation:
        # A pointwise convolution may return a view. Autograd is slow with changes in place of a view.
        # Nor may an activation change a tensor that another branch reads.
        layers["activation"] = activation(record.activation, inplace=record.norm)


class UnevenConv2d(nn.Conv2d):
    """A convolution with more padding at the bottom and the right than at the top and the left."""

    def __init__(self, *sizes: int, groups: int, bias: bool, extra_padding: int) -> None:
        super().__init__(*sizes, groups=groups, bias=bias)
        self.extra_padding = extra_padding

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns a map as large as `Operator.out_side` says."""
        return super().forward(F.pad(x, (0, self.extra_padding, 0, self.extra_padding)))


class Branches(nn.Module):
    """Branches whose outputs are joined. Each reads the whole input or, with `split`, its share of the channels."""

    def __init__(self, branches: Iterable[nn.Module], join: Join, act: Activation, *, split: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join
        self.split = split
        self.residual = join == "add" and any(not list(branch.children()) for branch in self.branches)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns the joined outputs of the branches."""
        count = len(self.branches)
        shares = x.chunk(count, 1) if self.split else (x,) * count
        outputs = [branch(shares[i]) for i, branch in enumerate(self.branches)]
        if self.residual:  # an empty branch returns its input
            outputs = [y if y is x else residual_branch(y) for y in outputs]
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
            layers += [nn.Flatten(), Classifier(record.in_channels, record.out_channels, record.bias)]
        elif record.kind == "pool":
            layers.append(GlobalAvgPool2d())
        elif record.kind == "max_pool":
            padding = record.kernel_size // 2 if record.padding is None else record.padding
            layers.append(nn.MaxPool2d(record.kernel_size, record.stride, padding))
        elif record.kind == "avg_pool":
            ends_at_edge = record.padding is None
            layers.append(nn.AvgPool2d(record.kernel_size, record.stride, record.padding or 0, ceil_mode=ends_at_edge))
        elif record.kind == "identity":
            layers.append(static_identity(record))
        elif record.kind == "flatten":
            layers.append(nn.Flatten())
        else:
            layers.append(nn.ChannelShuffle(record.in_channels // 2))
    return nn.Sequential(*layers)
