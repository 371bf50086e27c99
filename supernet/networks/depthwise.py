"""Depthwise convolution whose gradients are fast on a CPU.

oneDNN, which torch calls on x86, has a kernel for the weight gradient of depthwise convolutions of up to three columns.
Wider ones go through that for grouped convolutions, which fills up blocks of 16 x 16 channels with zeros and takes 3 to
20 times as long as the forward pass. So here a gradient of 5 x 5 or 7 x 7 is put together from strips of three columns:
the middle one, and one to either side for which the gradient of the output is shifted.

In bfloat16 oneDNN has no such kernel for the gradient of the input of strided ones, and the way it goes instead takes
tens of times as long as in float32, in which that gradient is therefore computed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRIP = 3  # columns of a kernel that oneDNN differentiates fast
SHIFT = 2  # columns between the middles of two strips
CAPABILITY = torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else "none"
SUPPORTED = {  # where torch has oneDNN's kernels for x86
    torch.float32: CAPABILITY.startswith("AVX"),
    torch.bfloat16: CAPABILITY == "AVX512",
}
WIDE = (5, 7)  # kernel sides that three strips cover: the shifted ones bring columns 2 and 3 from the middle


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`torch.nn.functional.conv2d` with groups = C and padding side // 2; the same result, its gradient sooner.

    x: (N, C, H, W); weight: (C, 1, side, side), side odd; returns (N, C, ceil(H / stride), ceil(W / stride)).
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # which does not reach into our function
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
    """`torch.nn.Conv2d` of a channel a group, half the kernel as padding and no bias; `depthwise_conv2d` trains it."""

    def __init__(self, channels: int, side: int, stride: int) -> None:
        super().__init__(channels, channels, side, stride, side // 2, groups=channels, bias=False)

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
        of_x = None
        if ctx.needs_input_grad[0]:
            half = weight.shape[-1] // 2
            inputs = x, weight, gradient
            if _strided_bfloat16(x, ctx.stride):  # of x only the shape is needed
                inputs = torch.empty_like(x, dtype=torch.float32), weight.float(), gradient.float()
            of_x = _backward(*inputs, ctx.stride, (half, half), 0).to(x.dtype)
        return of_x, _weight_gradient(x, weight, gradient, ctx.stride), None


def _weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """(C, 1, side, side) from x: (N, C, H, W) and the gradient of the output.

    Column j of a strip sums products of x at column stride * o - 1 + j with the gradient at column o. With the gradient
    shifted by m columns these are the kernel's columns from stride * m - 1 on, counted from its middle. What a shift
    pushes over the edge meets the padding alone in the outer two columns of a side strip; the third is left unused.
    A kernel of three columns is one strip.
    """
    side, height, rows = weight.shape[-1], x.shape[2], gradient.shape[2]
    half, outer = side // 2, side // 2 - 1
    if side == STRIP:
        return _backward(x, weight, gradient, stride, (half, half), 1)
    top = half % stride  # oneDNN asks for padding that the stride divides, and for an image no lower than the kernel
    more = max(0, -(-(side - height - top) // stride))
    bottom = max(0, (rows + more - 1) * stride + side - 2 * (half - top) - height - top)
    if top or bottom:
        x = F.pad(x, (0, 0, top, bottom))

    def strip(shift: int) -> Tensor:
        moved = F.pad(gradient, (shift, -shift, 0, more)) if shift or more else gradient
        return _backward(x, weight[..., :STRIP], moved, stride, (half - top, 1), 1)

    if x.shape[-1] <= SHIFT:  # the outer columns meet nothing but padding
        return F.pad(strip(0), (outer, outer))
    left, middle, right = (strip(shift) for shift in (-SHIFT // stride, 0, SHIFT // stride))
    return torch.cat((left[..., SHIFT - outer : SHIFT], middle, right[..., 1 : 1 + outer]), dim=-1)


def _backward(x: Tensor, weight: Tensor, gradient: Tensor, stride: int, padding: tuple[int, int], which: int) -> Tensor:
    """The gradient of x, (N, C, H, W), for which = 0, or of the weight, (C, 1, h, w), for which = 1.

    gradient: of the output. padding: rows and columns of zeros around x.
    """
    asked = [which == 0, which == 1, False]
    arguments = ([stride] * 2, padding, [1, 1], False, [0, 0], len(weight), asked)
    result: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *arguments)[which]
    return result
