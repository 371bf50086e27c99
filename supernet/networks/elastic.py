"""Elastic layers. What varies, width and kernel size, is an argument and never state."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.networks.depthwise import depthwise_conv2d
from supernet.networks.pointwise import pointwise_conv2d


def first_channels(tensor: Tensor, *sizes: int) -> Tensor:
    """The first `sizes` channels of a shared tensor, one size per leading dimension.

    A dimension that is taken whole is not sliced, since a slice costs a copy of its gradient, as large as the tensor.
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
        return first_channels(self.weight, out_channels, in_channels)

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, out_channels, H, W)."""
        bias = None if self.bias is None else first_channels(self.bias, out_channels)
        return pointwise_conv2d(x, self.weight_for(x.shape[1], out_channels), bias)

    def copy_to(self, conv: nn.Conv2d) -> None:
        """Copy the slice of a static convolution's size into it."""
        conv.weight.copy_(self.weight_for(conv.in_channels, conv.out_channels))
        if self.bias is not None:
            conv.bias.copy_(self.bias[: conv.out_channels])


class ElasticDepthwiseConv(nn.Module):
    """Depthwise convolution whose width and kernel size are arguments.

    A smaller kernel is the centre of the next larger one times a learned matrix, shared by all channels of the layer
    (kernel transforms, arXiv:1908.09791, section 3.2).
    """

    def __init__(self, max_channels: int, kernel_sizes: Sequence[int], stride: int) -> None:
        super().__init__()
        self.kernel_sizes = tuple(sorted(kernel_sizes))
        self.stride = stride
        largest = self.kernel_sizes[-1]
        self.weight = nn.Parameter(torch.empty(max_channels, 1, largest, largest))
        self.matrices = nn.ParameterDict({str(size): torch.eye(size**2) for size in self.kernel_sizes[:-1]})

    def reset(self, generator: torch.Generator) -> None:
        """Draw fresh weights. Kernel matrices become the identity, so that a smaller kernel starts as the centre."""
        nn.init.normal_(self.weight, std=(2.0 / self.kernel_sizes[-1] ** 2) ** 0.5, generator=generator)
        for matrix in self.matrices.values():
            nn.init.eye_(matrix)

    def weight_for(self, channels: int, kernel_size: int) -> Tensor:
        """(channels, 1, kernel_size, kernel_size). Used by `forward` and `copy_to` alike."""
        weight = first_channels(self.weight, channels)
        for smaller in reversed(self.kernel_sizes[:-1]):
            if weight.shape[-1] <= kernel_size:
                break
            margin = (weight.shape[-1] - smaller) // 2
            centre = F.pad(weight, (-margin,) * 4).view(channels, -1)  # one operation; slicing both dimensions is two
            weight = F.linear(centre, self.matrices[str(smaller)]).view(channels, 1, smaller, smaller)
        return weight

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        """x: (N, C, H, W) with C at most the largest; returns (N, C, H / stride, W / stride)."""
        return depthwise_conv2d(x, self.weight_for(x.shape[1], kernel_size), self.stride)

    def copy_to(self, conv: nn.Conv2d) -> None:
        """Copy the transformed slice of a static convolution's size into it."""
        conv.weight.copy_(self.weight_for(conv.out_channels, conv.kernel_size[0]))


class ElasticBatchNorm(nn.Module):
    """Batch norm whose width is an argument: scale, shift and running statistics are those of the first channels."""

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
        """x: (N, C, H, W) with C at most the largest. Training updates the running statistics of these C channels."""
        channels = x.shape[1]
        return F.batch_norm(
            x,
            first_channels(self.running_mean, channels),
            first_channels(self.running_var, channels),
            first_channels(self.weight, channels),
            first_channels(self.bias, channels),
            self.training,
            self.momentum,
            self.eps,
        )

    def copy_to(self, norm: nn.BatchNorm2d) -> None:
        """Copy the slices of a static batch norm's size into it."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(self, name)[: norm.num_features])


def permute(tensor: Tensor | None, order: Tensor, dim: int = 0) -> None:
    """Reorder a parameter or buffer in place. order: indices along `dim`."""
    assert tensor is not None
    tensor.copy_(tensor.index_select(dim, order))


def importance_order(importance: Tensor, cuts: Iterable[int]) -> Tensor:
    """(C,) channel indices by descending importance within each segment between two cuts. importance: (C,)."""
    segments = pairwise(sorted({0, *cuts, len(importance)}))
    return torch.cat([start + importance[start:end].argsort(descending=True, stable=True) for start, end in segments])
