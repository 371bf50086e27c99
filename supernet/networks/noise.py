"""Noise that training adds inside networks of any family: dropout and stochastic depth. Elsewhere there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class _Rates:
    dropout: float
    stochastic_depth: float


_NONE = _Rates(0.0, 0.0)
_rates: ContextVar[_Rates] = ContextVar("rates", default=_NONE)


@contextmanager
def training_noise(dropout: float, stochastic_depth: float, seed: int, device: torch.device) -> Iterator[None]:
    """Drop features before classifiers, and residual branches, in the forward passes of this thread inside the block.

    Random numbers follow from the seed; the generators of torch are afterwards as they were.
    """
    cuda = [device] if device.type == "cuda" else []
    token = _rates.set(_Rates(dropout, stochastic_depth))
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            yield
    finally:
        _rates.reset(token)


class Classifier(nn.Linear):
    """A linear layer on (N, features), of which training may drop some."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in_features); returns (N, out_features)."""
        rate = _rates.get().dropout
        return F.linear(F.dropout(x, rate) if rate else x, self.weight, self.bias)


def residual_branch(x: Tensor) -> Tensor:
    """The output of a residual branch, (N, C, H, W), before it is added. Training may skip the branch of some images.

    The others are scaled up, so that the mean stays (torchvision's `stochastic_depth`).
    """
    rate = _rates.get().stochastic_depth
    if not rate:
        return x
    from torchvision.ops import stochastic_depth

    skipped: Tensor = stochastic_depth(x, rate, "row")
    return skipped
