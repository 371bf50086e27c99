"""Depthwise convolution with a fast backward pass on a CPU.

Weight gradients of large kernels. torch computes convolutions on x86 with oneDNN. oneDNN has a fast kernel for the
weight gradient of a depthwise convolution only up to three columns. For wider kernels it takes the general way of
grouped convolutions, which pads every channel to blocks of 16 x 16 channels with zeros. That takes 3 to 20 times as
long as the forward pass, and was a third of a training step. Here the weight gradient of a 5 x 5 or 7 x 7 kernel is
put together from strips of three columns, each computed by the fast kernel: the strip in the middle, and one on its
left and right, for which the output's gradient is shifted.

Input gradients of strided convolutions in bfloat16. oneDNN has no fast kernel for these either, and its substitute
takes tens of times as long as float32, so much that a training step in bfloat16 was slower than in float32. Here this
one gradient is computed in float32. Training steps in bfloat16 are then 1.31 to 1.47 times as fast as in float32 on a
processor with avx512_bf16 (`python -m benchmarks.precision`).

`python -m benchmarks.layers [--precision bf16]` times every such layer beside torch's own. Together, the layers of
`mbv3-cifar` take 1.30 times as long with torch's own in float32. On an AMD EPYC without AVX-512, 5 x 5 layers on images
of 32 and 16 pixels lose up to 11 %. On an Intel Xeon with AVX-512 every layer gained, so one rule serves both.
benchmarks/README.md has the figures.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRIP = 3  # kernel columns up to which oneDNN's weight gradient is fast
SHIFT = 2  # columns between the middles of two strips
CAPABILITY = torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else "none"
SUPPORTED = {  # whether torch has oneDNN's kernels for x86
    torch.float32: CAPABILITY.startswith("AVX"),
    torch.bfloat16: CAPABILITY == "AVX512",
}
WIDE = (5, 7)  # kernel sizes that three strips cover: the outer strips add columns 2 and 3 from the middle


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Same result as `conv2d`, with a faster backward pass.

    `torch.nn.functional.conv2d` has groups = C and padding K // 2 here. x: (N, C, H, W); weight: (C, 1, K, K), K odd;
    returns (N, C, ceil(H / stride), ceil(W / stride)).
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # autocast does not reach into our function
        lower = torch.get_autocast_dtype("cpu")
        x, weight = (tensor.to(lower) if tensor.dtype == torch.float32 else tensor for tensor in (x, weight))
    if _worthwhile(x, weight, stride):
        output: Tensor = _DepthwiseConv.apply(x, weight, stride)
        return output
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


def _worthwhile(x: Tensor, weight: Tensor, stride: int) -> bool:
    return (
        SUPPORTED.get(x.dtype, False)
        and (weight.shape[-1] in WIDE or (weight.shape[-1] == STRIP and _strided_bfloat16(x, stride)))
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and SHIFT % stride == 0
        and not torch.compiler.is_compiling()
    )


def _strided_bfloat16(x: Tensor, stride: int) -> bool:
    return stride > 1 and x.dtype == torch.bfloat16


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` without bias, padded by half the kernel. Training runs `depthwise_conv2d`."""

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, C, ceil(H / stride), ceil(W / stride))."""
        return depthwise_conv2d(x, self.weight, self.stride[0]) if self.training else super().forward(x)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            half = weight.shape[-1] // 2
            inputs = x, weight, gradient
            if _strided_bfloat16(x, ctx.stride):  # only the shape of x is needed
                inputs = torch.empty_like(x, dtype=torch.float32), weight.float(), gradient.float()
            x_gradient = _backward(*inputs, ctx.stride, (half, half), 0).to(x.dtype)
        return x_gradient, _weight_gradient(x, weight, gradient, ctx.stride), None


def _weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """(C, 1, K, K), the gradient of the weight. x: (N, C, H, W); gradient: of the output.

    Column j of a strip sums x at column stride * o - 1 + j times the gradient at column o, over all o. If the gradient
    is shifted by m columns, the strip holds the kernel's columns from stride * m - 1 on, counted from the kernel's
    middle. A shift pushes m columns of the gradient over the edge. In the two outer columns of the left and right
    strips these would have met padding alone, so nothing is lost; the third column is wrong and is not used.
    A kernel of three columns is one strip.
    """
    kernel_size, height, rows = weight.shape[-1], x.shape[2], gradient.shape[2]
    half, outer = kernel_size // 2, kernel_size // 2 - 1
    if kernel_size == STRIP:
        return _backward(x, weight, gradient, stride, (half, half), 1)
    # oneDNN needs padding that the stride divides, and an image at least as high as the kernel.
    top = half % stride
    extra_rows = max(0, -(-(kernel_size - height - top) // stride))
    bottom = max(0, (rows + extra_rows - 1) * stride + kernel_size - 2 * (half - top) - height - top)
    if top or bottom:
        x = F.pad(x, (0, 0, top, bottom))

    def strip(shift: int) -> Tensor:
        shifted = F.pad(gradient, (shift, -shift, 0, extra_rows)) if shift or extra_rows else gradient
        return _backward(x, weight[..., :STRIP], shifted, stride, (half - top, 1), 1)

    if x.shape[-1] <= SHIFT:  # the outer columns meet padding alone
        return F.pad(strip(0), (outer, outer))
    left, middle, right = (strip(shift) for shift in (-SHIFT // stride, 0, SHIFT // stride))
    return torch.cat((left[..., SHIFT - outer : SHIFT], middle, right[..., 1 : 1 + outer]), dim=-1)


def _backward(x: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: tuple[int, int], which: int) -> Tensor:
    """torch's own gradient of x, (N, C, H, W), for which = 0, or of the weight, (C, 1, h, w), for which = 1.

    gradient: of the output. padding: rows and columns of zeros around x.
    """
    mask = [which == 0, which == 1, False]
    arguments = ([stride] * 2, padding, [1, 1], False, [0, 0], len(weight), mask)
    result: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *arguments)[which]
    return result
