"""Training that starts from the weights of another supernet of the same space, for other classes or channels."""

from collections.abc import Set
from dataclasses import replace

import torch

from supernet.families import supernet_class
from supernet.networks.supernet import Supernet
from supernet.space import SearchSpace
from supernet.training.loop import TrainingState


def start_from(state: TrainingState, source: Supernet, *, same_classes: bool, identity: str) -> dict[str, list[str]]:
    """Give a fresh state the weights of a trained supernet. The names of the tensors that are `taken` and `new`.

    New tensors keep their random weights: those that depend on the number of classes unless `same_classes`, and on the
    number of channels if that differs. If nothing is new, the source's largest network is the teacher of all phases
    that distil.

    identity: names the source's weights. A checkpoint of a run that started from other weights is refused.

    Raises:
        ValueError: the source has another space.
    """
    space = state.supernet.space
    if replace(source.space, classes=space.classes, in_channels=space.in_channels) != space:
        raise ValueError(
            f"the weights are of the space {source.space.name}, not of {space.name} with the same choices; train in "
            "the space of the weights"
        )
    new: set[str] = set()
    if not same_classes:
        new |= _reshaped(space, replace(space, classes=space.classes + 1))
    if source.space.in_channels != space.in_channels:
        new |= _reshaped(space, replace(space, in_channels=space.in_channels + 1))
    weights, source_weights = state.supernet.state_dict(), source.state_dict()
    names = [name for name in weights if name not in new]
    state.supernet.load_state_dict(weights | {name: source_weights[name] for name in names})
    state.start = identity
    if not new and any(phase.distillation for phase in state.schedule.phases):
        state.teacher = state.fresh_teacher()
    return {"taken": names, "new": sorted(new)}


def _reshaped(space: SearchSpace, other: SearchSpace) -> Set[str]:
    """The names of the tensors that have other shapes in the supernet of another space."""
    shapes = []
    with torch.device("meta"):
        for variant in (space, other):
            supernet: Supernet = supernet_class(variant.family)(variant)
            shapes.append({name: tensor.shape for name, tensor in supernet.state_dict().items()})
    return {name for name, shape in shapes[0].items() if shapes[1][name] != shape}
