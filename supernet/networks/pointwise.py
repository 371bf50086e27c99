"""Pointwise convolution and global average pooling whose gradients are fast on a CPU.

oneDNN computes the gradients of a 1 x 1 convolution of small images, which a squeeze-and-excite's are of one pixel, in
up to six times as long as those of the same matrix product; so there it is computed as one. And the gradient of a
mean over pixels is a view that repeats one value, with which every later operation falls back to its slow loops; so
here it is written out, with channels last.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from supernet.networks.depthwise import SUPPORTED

PIXELS = 64  # of the largest images on which the matrix product is faster on the whole (benchmarks/layers.py)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.conv2d` with a 1 x 1 kernel, stride 1; the same result, its gradient sooner.

    x: (N, C, H, W); weight: (O, C, 1, 1); bias: (O,); returns (N, O, H, W).
    """
    if _worthwhile(x, weight):
        pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C), of one piece
        return F.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias)


def _worthwhile(x: Tensor, weight: Tensor) -> bool:
    return (
        SUPPORTED.get(x.dtype, False)
        and x.device.type == "cpu"
        and x.shape[2] * x.shape[3] <= PIXELS
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


class PointwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 1 x 1 kernel, stride 1; `pointwise_conv2d` trains it."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, out_channels, H, W)."""
        return pointwise_conv2d(x, self.weight, self.bias) if self.training else super().forward(x)


def global_average(x: Tensor) -> Tensor:
    """(N, C, 1, 1), the mean over the pixels of (N, C, H, W); its gradient is channels last."""
    ours = x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()
    if ours and not torch.compiler.is_compiling():
        mean: Tensor = _GlobalAverage.apply(x)
        return mean
    return x.mean((2, 3), keepdim=True)


class GlobalAvgPool2d(nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d` to one pixel; `global_average` trains it."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return global_average(x) if self.training else super().forward(x)


class _GlobalAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.height, ctx.width = x.shape[2:]
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = (gradient / (ctx.height * ctx.width)).permute(0, 2, 3, 1)  # (N, 1, 1, C)
        return share.expand(-1, ctx.height, ctx.width, -1).contiguous().permute(0, 3, 1, 2)
