"""Pointwise convolution and global average pooling with a fast backward pass on a CPU.

Pointwise convolutions of small images. oneDNN, with which torch computes convolutions on x86, takes up to six times as
long for the gradients of a 1 x 1 convolution of a small image as for the gradients of the same matrix product.
Squeeze-and-excite runs such convolutions on images of one pixel. Here images of up to `PIXELS` pixels are multiplied
as matrices.

The mean over pixels. Its gradient in torch is a view that repeats one value for all pixels of a channel. With such a
view every later operation falls back to slow loops. Here the gradient is written out, with channels last.

`python -m benchmarks.layers [--precision bf16]` times every such layer beside torch's own. In float32 the matrix
products gain nothing at 8 x 8 pixels, and lost up to 10 % on an AMD EPYC. They are used there all the same, so that one
rule holds for both precisions. benchmarks/README.md has the figures.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from supernet.networks.depthwise import SUPPORTED

PIXELS = 64  # largest image on which the matrix product is faster overall (benchmarks/layers.py)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Same result as `conv2d` with a 1 x 1 kernel and stride 1, with a faster backward pass.

    x: (N, C, H, W); weight: (O, C, 1, 1); bias: (O,); returns (N, O, H, W).
    """
    if _worthwhile(x, weight):
        pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous
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
    """`torch.nn.Conv2d` with a 1 x 1 kernel and stride 1. Training runs `pointwise_conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, out_channels, H, W)."""
        return pointwise_conv2d(x, self.weight, self.bias) if self.training else super().forward(x)


def global_average(x: Tensor) -> Tensor:
    """(N, C, 1, 1), the mean over the pixels of x: (N, C, H, W). Its gradient is channels last."""
    written_out = x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()
    if written_out and not torch.compiler.is_compiling():
        mean: Tensor = _GlobalAverage.apply(x)
        return mean
    return x.mean((2, 3), keepdim=True)


class GlobalAvgPool2d(nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d` to one pixel. Training runs `global_average`."""

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
