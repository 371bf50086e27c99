"""Stand-alone training: a subnet as a network of its own, trained by the same loop as a supernet."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from supernet.networks.static import static_layers
from supernet.networks.supernet import Supernet, initialise
from supernet.space import Architecture, SearchSpace
from supernet.training.loop import TrainingState
from supernet.training.schedule import Phase, Schedule


class StandAlone(Supernet):
    """A supernet of a single subnet: its static network with fresh weights. Other architectures are refused."""

    def __init__(self, space: SearchSpace, arch: Architecture, generator: torch.Generator) -> None:
        super().__init__(space)
        self.arch = arch
        self.network = nn.Sequential(*(static_layers(records) for _, records in space.part_operators(arch)))
        initialise(self.network, generator)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits. images: (N, C, R, R), normalised, R = arch.resolution.

        Raises:
            ValueError: `arch` is not the network's architecture, or the images have another size.
        """
        self._check(arch)
        self.check_image_size(images, arch)
        logits: Tensor = self.network(images)
        return logits

    def extract(self, arch: Architecture) -> nn.Sequential:
        """A copy of the network.

        Raises:
            ValueError: `arch` is not the network's architecture.
        """
        self._check(arch)
        return copy.deepcopy(self.network)

    def sort_channels(self, trained: Sequence[Sequence[int]]) -> None:
        """Do nothing: no channels are elastic."""

    def _check(self, arch: Architecture) -> None:
        if arch != self.arch:
            raise ValueError(f"this network is {json.dumps(self.arch.to_json())}, not {json.dumps(arch.to_json())}")


def stand_alone(
    space: SearchSpace, arch: Architecture, schedule: Schedule, epochs: int, seed: int, device: torch.device | str
) -> TrainingState:
    """The start of training a subnet from scratch for `epochs`, at the learning rate of a schedule's first phase.

    Every step is at the subnet's own resolution, even if the first phase has growing resolutions. The phase is named
    after the subnet, so that a checkpoint of another subnet is refused.
    """
    first = schedule.phases[0]
    warmup = min(first.warmup_epochs, epochs / 2)
    phase = Phase(f"subnet {space.id(arch)}", epochs, first.learning_rate, warmup_epochs=warmup)
    schedule = replace(schedule, phases=(phase,), resolutions=(arch.resolution,), seed=seed)
    network = StandAlone(space, arch, torch.Generator().manual_seed(seed))
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=schedule.precision == "fp16")
    return TrainingState(network.to(device, memory_format=torch.channels_last), schedule, scaler, arch)
