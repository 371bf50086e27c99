"""Stand-alone training: a subnet as a network of its own, trained by the same loop as a supernet."""

import copy
import json
from collections import OrderedDict
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
    """A supernet of a single subnet: its static network. Other architectures are refused.

    network: from `static_network`, or from the `extract` of a supernet.
    """

    def __init__(self, space: SearchSpace, arch: Architecture, network: nn.Sequential) -> None:
        super().__init__(space)
        self.arch = arch
        self.network = network

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


def static_network(space: SearchSpace, arch: Architecture) -> nn.Sequential:
    """A subnet's static network, its parts by their names, with torch's own random weights."""
    parts = {part.name.replace(".", "_"): static_layers(records) for part, records in space.part_operators(arch)}
    return nn.Sequential(OrderedDict(parts))


def random_network(space: SearchSpace, arch: Architecture, seed: int) -> nn.Sequential:
    """A subnet's static network with fresh weights that follow from the seed."""
    network = static_network(space, arch)
    initialise(network, torch.Generator().manual_seed(seed))
    return network


def named_weights(space: SearchSpace, arch: Architecture, network: nn.Sequential) -> dict[str, Tensor]:
    """The tensors of an extracted or a stand-alone network under the names of `static_network`'s, on the CPU.

    Both have the same tensors in the same order; the names inside some parts of an extracted network differ.
    """
    names = static_network(space, arch).state_dict()
    return {
        name: value.detach().cpu().contiguous()
        for name, value in zip(names, network.state_dict().values(), strict=True)
    }


def stand_alone(
    space: SearchSpace,
    arch: Architecture,
    network: nn.Sequential,
    schedule: Schedule,
    epochs: int,
    seed: int,
    device: torch.device | str,
    *,
    learning_rate: float | None = None,
    warmup_epochs: float | None = None,
    teacher: nn.Module | None = None,
    distillation: float = 0.0,
    start: str = "",
) -> TrainingState:
    """The start of training a subnet alone, from the weights of `network`, for `epochs`.

    The recipe is the schedule's; every step is at the subnet's own resolution, even if a phase has growing resolutions.
    The phase is named after the subnet, so that a checkpoint of another subnet is refused.

    learning_rate, warmup_epochs: None takes the first phase's; the warm-up takes at most half of the epochs.
    teacher: a network whose soft labels count with the weight `distillation`. start: names the weights of `network` and
    of `teacher`; empty if they are random.
    """
    first = schedule.phases[0]
    warmup = first.warmup_epochs if warmup_epochs is None else warmup_epochs
    phase = Phase(
        f"subnet {space.id(arch)}",
        epochs,
        first.learning_rate if learning_rate is None else learning_rate,
        warmup_epochs=min(warmup, epochs / 2),
        distillation=distillation,
    )
    schedule = replace(schedule, phases=(phase,), resolutions=(arch.resolution,), seed=seed)
    supernet = StandAlone(space, arch, network).to(device, memory_format=torch.channels_last)
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=schedule.precision == "fp16")
    if teacher is not None:
        teacher = teacher.to(device, memory_format=torch.channels_last).requires_grad_(False)
    return TrainingState(supernet, schedule, scaler, arch, start=start, teacher=teacher)
