"""Pointwise convolution as a matrix product, and a mean whose gradient is written out, equal torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.networks.elastic import first_channels
from supernet.networks.pointwise import PIXELS, GlobalAvgPool2d, PointwiseConv2d, global_average, pointwise_conv2d
from supernet.networks.static import activation, static_conv
from supernet.operators import Activation, Operator


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))
    values = values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values
    return values.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_of_a_convolution_are_those_of_torch(dtype: torch.dtype, bias: bool) -> None:
    for count, channels, height, width, outputs in (
        (2, 24, 1, 1, 8),
        (1, 3, 4, 5, 16),
        (3, 16, 8, 8, 5),
        (2, 1, 2, 9, 1),
    ):
        x, weight = drawn(count, channels, height, width, dtype=dtype), drawn(outputs, channels, 1, 1, dtype=dtype)
        inputs = [x, weight, *([drawn(outputs, dtype=dtype)] if bias else [])]
        ours, theirs = pointwise_conv2d(*inputs), F.conv2d(*inputs)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        rounding = 1e-5 if dtype == torch.float32 else 2**-6
        torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding)
        gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        exact = torch.autograd.grad(F.conv2d(*(each.double() for each in inputs)), inputs, gradient.double())
        for found, sought in zip(torch.autograd.grad(ours, inputs, gradient), exact, strict=True):
            assert found.dtype == dtype
            torch.testing.assert_close(found, sought, rtol=4 * rounding, atol=4 * rounding)


def test_gradients_of_a_slice_are_those_of_the_whole_weight_and_zero_outside() -> None:
    x, weight = drawn(2, 6, 4, 4), drawn(9, 10, 1, 1)
    ours, theirs = (convolve(x, first_channels(weight, 5, 6)) for convolve in (pointwise_conv2d, F.conv2d))
    torch.testing.assert_close(ours, theirs)
    found, sought = (torch.autograd.grad(made.square().sum(), (x, weight)) for made in (ours, theirs))
    torch.testing.assert_close(found, sought)
    assert found[1][:5, :6].all()
    assert not found[1][5:].any()
    assert not found[1][:, 6:].any()


@pytest.mark.parametrize("act", ["relu", "h_swish", "h_sigmoid"])
def test_an_activation_right_after_it_leaves_gradients_right(act: Activation) -> None:
    record = Operator("conv", 8, 6, kernel_size=1, stride=1, groups=1, side=2, bias=True, norm=False, activation=act)
    layers = static_conv(record)
    x = drawn(3, 8, 2, 2)
    plain = activation(act, inplace=False)(F.conv2d(x, layers.conv.weight, layers.conv.bias))
    ours = layers(x)
    torch.testing.assert_close(ours, plain)
    inputs = (x, layers.conv.weight, layers.conv.bias)
    found, sought = (torch.autograd.grad(made.square().sum(), inputs) for made in (ours, plain))
    torch.testing.assert_close(found, sought)


def test_the_matrix_product_is_taken_where_it_pays() -> None:
    def taken(x: Tensor, weight: Tensor) -> bool:
        result = pointwise_conv2d(x, weight)
        torch.testing.assert_close(result, F.conv2d(x, weight))
        return result.grad_fn is not None and result.grad_fn.name() != "ConvolutionBackward0"

    weight, small, large = drawn(4, 8, 1, 1), drawn(2, 8, 8, PIXELS // 8), drawn(2, 8, 9, PIXELS // 8)
    assert taken(small, weight)
    assert not taken(large, weight)
    assert not taken(small.detach().contiguous(), weight)  # its pixels are not of one piece
    assert not taken(small, weight.detach())
    with torch.no_grad():
        assert not taken(small, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_of_a_mean_are_those_of_torch(dtype: torch.dtype) -> None:
    for shape in ((2, 24, 8, 8), (1, 3, 4, 5), (2, 5, 1, 1)):
        x = drawn(*shape, dtype=dtype)
        ours, theirs = global_average(x), F.adaptive_avg_pool2d(x, 1)
        torch.testing.assert_close(ours, theirs)
        gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        found, sought = (torch.autograd.grad(made, x, gradient)[0] for made in (ours, theirs))
        torch.testing.assert_close(found, sought)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_under_autocast_gradients_have_the_types_that_torch_gives_them() -> None:
    x, weight = drawn(2, 8, 4, 4), drawn(6, 8, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (global_average(made(x, weight)) for made in (pointwise_conv2d, F.conv2d))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    found, sought = (torch.autograd.grad(made.float().square().sum(), (x, weight)) for made in (ours, theirs))
    for one, other in zip(found, sought, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2**-5, atol=2**-5)


@pytest.mark.parametrize(
    ("layer", "ours"),
    [(PointwiseConv2d(8, 4, bias=True), "PermuteBackward0"), (GlobalAvgPool2d(), "_GlobalAverageBackward")],
)
def test_the_layers_are_those_of_torch_but_in_training(layer: nn.Module, ours: str) -> None:
    x = drawn(2, 8, 3, 3)
    trained, evaluated = layer.train()(x), layer.eval()(x)
    torch.testing.assert_close(trained, evaluated)
    assert trained.grad_fn.name() == ours
    assert evaluated.grad_fn.name() != ours
