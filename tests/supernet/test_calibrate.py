"""Recalibrated statistics are the pooled ones of all images."""

import pytest
import torch
from torch import Tensor, nn

from supernet.evaluation.calibrate import recalibrate


def batches_of(images: Tensor, sizes: list[int]) -> list[Tensor]:
    assert sum(sizes) == len(images)
    return list(images.split(sizes))


@pytest.mark.parametrize("sizes", [[64], [32, 32], [50, 13, 1], [1, 62, 1]])
def test_unequal_batches_pool_to_the_mean_and_variance_of_all_values(sizes: list[int]) -> None:
    """The first batch norm of a network sees the images alone, so its statistics have a closed form."""
    images = torch.randn(64, 3, 4, 4) * 3 + torch.linspace(-5, 5, 64).view(-1, 1, 1, 1)  # means differ between batches
    network = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(network, batches_of(images, sizes))
    assert torch.allclose(network[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network[0].running_var, images.transpose(0, 1).reshape(3, -1).var(1), rtol=1e-5)


def test_averaging_within_batch_variances_would_be_wrong_here() -> None:
    """The between-batch part is what the pooled variance has and the average of variances lacks."""
    images = torch.cat([torch.randn(32, 1, 2, 2) - 5, torch.randn(32, 1, 2, 2) + 5])
    network = nn.Sequential(nn.BatchNorm2d(1))
    recalibrate(network, batches_of(images, [32, 32]))
    averaged = (images[:32].var() + images[32:].var()) / 2
    assert network[0].running_var > 20 * averaged


def test_a_second_layer_sees_activations_normalised_by_their_own_batch() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    images = torch.randn(48, 2, 5, 5)
    recalibrate(network, [images])
    with torch.no_grad():
        mean, std = (
            images.mean((0, 2, 3), keepdim=True),
            (images.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt(),
        )
        inner = network[1]((images - mean) / std)
    assert torch.allclose(network[2].running_mean, inner.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network[2].running_var, inner.transpose(0, 1).reshape(4, -1).var(1), rtol=1e-4)


def test_mode_momentum_and_weights_are_left_as_they_were() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3), nn.Conv2d(2, 2, 1)).eval()
    before = [parameter.clone() for parameter in network.parameters()]
    recalibrate(network, [torch.randn(8, 2, 3, 3)])
    assert not network.training
    assert network[0].momentum == 0.3
    assert not network[0]._forward_hooks
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_no_images_is_an_error_and_no_batch_norm_is_none() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(nn.Sequential(nn.BatchNorm2d(1)), [])
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    recalibrate(network, [])
    assert network.training
