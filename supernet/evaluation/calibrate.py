"""Batch-norm recalibration: statistics of the subnet's own, in place of those shared by all subnets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class _Pooled:
    """Mean and sum of squared deviations of all values so far, in double precision."""

    count: int
    mean: Tensor
    squares: Tensor

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Merge a batch: its count, mean and unbiased variance (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        total = self.count + count
        delta = mean.double() - self.mean
        self.squares += variance.double() * (count - 1) + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every batch norm by statistics of `batches`, in place.

    The variance is pooled: the variance within batches plus the variance between their means. Once-for-All averages the
    variances within batches and loses the second term. During the pass each layer normalises by the statistics of the
    current batch, as in fvcore's `precise_bn`. The network stays in training or in evaluation mode, as it was.

    batches: normalised images, (N, C, R, R) each; N may differ from batch to batch.

    Raises:
        ValueError: there is no batch, or a batch norm sees a single value per channel.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    pooled: dict[nn.Module, _Pooled] = {}

    def collect(norm: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        count = inputs[0].numel() // inputs[0].shape[1]
        mean, variance = _statistics(norm)
        if norm not in pooled:
            pooled[norm] = _Pooled(
                0, torch.zeros_like(mean, dtype=torch.double), torch.zeros_like(mean, dtype=torch.double)
            )
        pooled[norm].add(count, mean, variance)

    was_training = network.training
    momenta = [norm.momentum for norm in norms]
    hooks = [norm.register_forward_hook(collect) for norm in norms]
    try:
        network.train()
        for norm in norms:
            norm.momentum = 1.0  # the running statistics become exactly the statistics of the current batch
        for batch in batches:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(was_training)
    if not pooled:
        raise ValueError("batch-norm recalibration needs at least one batch of images")
    for norm, statistics in pooled.items():
        mean, variance = _statistics(norm)
        mean.copy_(statistics.mean)
        variance.copy_(statistics.squares / max(1, statistics.count - 1))


def _statistics(norm: Any) -> tuple[Tensor, Tensor]:
    return norm.running_mean, norm.running_var
