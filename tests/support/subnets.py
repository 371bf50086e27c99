"""Supernets with random weights, and their subnets and images."""

import numpy as np
import torch
from torch import Tensor

from supernet.families import supernet_class
from supernet.networks.supernet import Supernet
from supernet.space import Architecture, SearchSpace


def supernet_of(space: SearchSpace) -> Supernet:
    """Random weights and random statistics, so that a wrong slice of either shows."""
    generator = torch.Generator().manual_seed(1)
    supernet: Supernet = supernet_class(space.family)(space, generator).eval()
    for key, tensor in supernet.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1, generator=generator)
        elif key.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif "matrices" in key:
            tensor.add_(torch.empty_like(tensor).normal_(0, 0.05, generator=generator))
    return supernet


def archs_of(space: SearchSpace, count: int) -> list[Architecture]:
    genomes = space.sample(np.random.default_rng(0), count)
    return [space.smallest(), space.largest(), *map(space.decode, genomes)]


def images_for(space: SearchSpace, resolution: int, count: int = 2) -> Tensor:
    return torch.randn(count, space.in_channels, resolution, resolution, generator=torch.Generator().manual_seed(2))
