"""What all supernets have in common: one set of weights, running a subnet, and extracting a subnet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernet.networks.elastic import ElasticConv, ElasticDepthwiseConv
from supernet.space import Architecture, SearchSpace


class Supernet(nn.Module, ABC):
    """All subnets of a space in one set of weights. The architecture is an argument; no subnet is ever "active"."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits of one subnet. images: (N, C, R, R), normalised, R = arch.resolution."""

    @abstractmethod
    def extract(self, arch: Architecture) -> nn.Sequential:
        """The subnet as a plain static network with its own copy of the weights and statistics.

        In evaluation mode its outputs equal the supernet's. In training all subnets share batch-norm statistics, so
        recalibrate these (`supernet.evaluation.calibrate`) before use.
        """

    @abstractmethod
    def sort_channels(self, trained: Sequence[Sequence[int]]) -> None:
        """Reorder the elastic channels so that slices keep the most important ones (arXiv:1908.09791, section 3.2).

        trained: per gene, the indices of the choices already trained (`SearchSpace.open_choices`). Subnets of these
        choices keep their outputs, since channels move only within the segments between two trained widths.
        """

    def check_image_size(self, images: Tensor, arch: Architecture) -> None:
        """Refuse images of another size than the architecture's resolution, which would silently cost accuracy."""
        if tuple(images.shape[2:]) != (arch.resolution, arch.resolution):
            size = "x".join(map(str, images.shape[2:]))
            raise ValueError(f"images are {size} pixels; the architecture's resolution is {arch.resolution}")


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw fresh weights: convolutions normal (fan-out), linear layers uniform, kernel matrices the identity."""
    for layer in module.modules():
        if isinstance(layer, ElasticDepthwiseConv):
            layer.reset(generator)
        elif isinstance(layer, nn.Conv2d | ElasticConv):
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel() // getattr(layer, "groups", 1)
            nn.init.normal_(layer.weight, std=(2.0 / fan_out) ** 0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
