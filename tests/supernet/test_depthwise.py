"""Depthwise convolution with a gradient of our own equals torch's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.networks import depthwise
from supernet.networks.depthwise import DepthwiseConv2d, depthwise_conv2d


def reference(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_those_of_torch(size: int, stride: int, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 16), (2, 2, 16), (5, 1, 8), (3, 4, 3), (7, 7, 24), (8, 6, 40), (15, 16, 16), (16, 9, 1))
    for height, width, channels in shapes:
        x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float32)
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        weight = torch.randn(channels, 1, size, size, generator=generator).requires_grad_()
        ours, theirs = depthwise_conv2d(x, weight, stride), reference(x, weight, stride)
        assert torch.equal(ours, theirs)
        gradient = torch.randn(ours.shape, generator=generator)
        exact = torch.autograd.grad(reference(x.double(), weight.double(), stride), (x, weight), gradient.double())
        for found, sought in zip(torch.autograd.grad(ours, (x, weight), gradient), exact, strict=True):
            torch.testing.assert_close(found, sought, rtol=1e-4, atol=1e-4)
        (of_weight,) = torch.autograd.grad(depthwise_conv2d(x.detach(), weight, stride), weight, gradient)
        torch.testing.assert_close(of_weight, exact[1], rtol=1e-4, atol=1e-4)


BFLOAT16 = pytest.mark.skipif(not depthwise.SUPPORTED[torch.bfloat16], reason="no bfloat16 kernels on this processor")


@BFLOAT16
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_gradients_in_bfloat16_are_exact_but_for_rounding(size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for height, width in ((9, 7), (2, 2)):
        x = torch.randn(2, 24, height, width, generator=generator).bfloat16()
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(24, 1, size, size, generator=generator).bfloat16().requires_grad_()
        ours = depthwise_conv2d(x, weight, stride)
        gradient = torch.randn(ours.shape, generator=generator).bfloat16()
        exact = torch.autograd.grad(reference(x.double(), weight.double(), stride), (x, weight), gradient.double())
        for found, sought in zip(torch.autograd.grad(ours, (x, weight), gradient), exact, strict=True):
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found, sought, rtol=2**-7, atol=2**-7)  # of numbers up to 30, with 8 bits each


@BFLOAT16
@pytest.mark.parametrize("size", [3, 5])
def test_strided_gradients_of_autocast_are_computed_where_kernels_are_fast(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the input in float32, those of the weights in bfloat16; what the caller gets is in float32, as it was."""
    dtypes = []

    def spy(*arguments: Any) -> Tensor:
        dtypes.append((arguments[-1], {tensor.dtype for tensor in arguments[:3]}))
        return backward(*arguments)

    backward = depthwise._backward
    monkeypatch.setattr(depthwise, "_backward", spy)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 9, 9, generator=generator, requires_grad=True)
    weight = torch.randn(8, 1, size, size, generator=generator, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = depthwise_conv2d(x, weight, 2), reference(x, weight, 2)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    gradient = torch.randn(ours.shape, generator=generator).bfloat16()
    found, sought = (torch.autograd.grad(made, (x, weight), gradient) for made in (ours, theirs))
    for one, other in zip(found, sought, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6)
    strips = 1 if size == 3 else 3
    assert dtypes == [(0, {torch.float32}), *strips * [(1, {torch.bfloat16})]]


def test_autocast_leaves_double_precision_alone() -> None:
    x, weight = torch.randn(1, 2, 5, 5).double(), torch.randn(2, 1, 5, 5).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(depthwise_conv2d(x, weight, 1), reference(x, weight, 1))


@pytest.mark.skipif(not depthwise.SUPPORTED[torch.float32], reason="torch computes on this processor without oneDNN")
def test_our_gradient_is_taken_where_it_pays() -> None:
    x, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 7, 7, requires_grad=True)
    ours = "_DepthwiseConvBackward"
    assert depthwise_conv2d(x, weight, 1).grad_fn.name() == ours
    assert depthwise_conv2d(x, weight, 2).grad_fn.name() == ours
    assert depthwise_conv2d(x, weight, 3).grad_fn.name() != ours  # two columns are no number of steps of three
    assert depthwise_conv2d(x.double(), weight.double(), 1).grad_fn.name() != ours
    small = torch.randn(8, 1, 3, 3, requires_grad=True)
    assert depthwise_conv2d(x, small, 2).grad_fn.name() != ours
    assert depthwise_conv2d(x.bfloat16(), small.bfloat16(), 1).grad_fn.name() != ours


def test_the_layer_is_a_plain_convolution_but_in_training() -> None:
    layer, x = DepthwiseConv2d(8, 7, 2), torch.randn(2, 8, 9, 9)
    assert torch.equal(layer(x), layer.eval()(x))
    assert layer(x).grad_fn.name() == "ConvolutionBackward0"
    assert tuple(layer(x).shape) == (2, 8, 5, 5)
