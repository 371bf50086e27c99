"""EfficientNet-Lite0 with fewer channels: every width scaled equally, or the widths of given tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.mobile_networks import Block, MobileNetwork

Reader: TypeAlias = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Group:
    """Channels that must have one width. writers, norms: layers whose outputs they are. readers: dense layers."""

    writers: Sequence[nn.Conv2d]  # dense or depthwise
    norms: Sequence[nn.BatchNorm2d]
    readers: Sequence[Reader]

    def importance(self) -> Tensor:
        """(C,) L1 norm of the weights that read a channel times the scale of its last batch norm, as `convert` has."""
        read = torch.zeros(len(self.norms[-1].weight))
        for layer in self.readers:
            read += layer.weight.abs().sum([axis for axis in range(layer.weight.ndim) if axis != 1])
        return read * self.norms[-1].weight.abs()


@torch.no_grad()
def narrowed(network: MobileNetwork, ratio: float) -> MobileNetwork:
    """A copy with this share of the channels of every group, rounded to whole channels: the most important ones."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = {layer: name for name, layer in network.named_modules()}
    for group in groups(network):
        importance = group.importance()
        kept = importance.argsort(descending=True, stable=True)[: max(1, round(ratio * len(importance)))]
        for layer in (*group.writers, *group.norms):
            for name, tensor in layer.state_dict(prefix=f"{names[layer]}.").items():
                if tensor.ndim:
                    state[name] = state[name].index_select(0, kept)
        for layer in group.readers:
            name = f"{names[layer]}.weight"
            state[name] = state[name].index_select(1, kept)
    return of_widths(network, state)


def groups(network: MobileNetwork) -> list[Group]:
    """All groups of channels, with the stem's first; the image and the logits are none."""
    result = []
    writers, norms, readers = [network.stem], [network.stem_norm], list[Reader]()
    for block in network.blocks:
        layers = block.layers
        if "expand" in layers:
            readers.append(layers["expand"])
            if not block.residual:
                result.append(Group(writers, norms, readers))
                writers, norms, readers = [], [], []
            inner = [layers["expand"], layers["depthwise"]], [layers["expand_norm"], layers["depthwise_norm"]]
            result.append(Group(*inner, [layers["project"]]))
        else:  # the depthwise convolution reads and writes the channels outside
            writers, norms = [*writers, layers["depthwise"]], [*norms, layers["depthwise_norm"]]
            result.append(Group(writers, norms, [*readers, layers["project"]]))
            writers, norms, readers = [], [], []
        writers, norms = [*writers, layers["project"]], [*norms, layers["project_norm"]]
    result.append(Group(writers, norms, [*readers, network.head]))
    result.append(Group([network.head], [network.head_norm], [network.classifier]))
    return result


def of_widths(network: MobileNetwork, state: Mapping[str, Tensor]) -> MobileNetwork:
    """A network with the tensors of a state dict, and otherwise like another network: kernel sizes, strides, sums."""
    blocks = []
    for number, block in enumerate(network.blocks):
        depthwise, prefix = block.layers["depthwise"], f"blocks.{number}.layers"
        width, out_channels = len(state[f"{prefix}.depthwise.weight"]), len(state[f"{prefix}.project.weight"])
        expands = "expand" in block.layers
        in_channels = state[f"{prefix}.expand.weight"].shape[1] if expands else width
        sizes = in_channels, width, out_channels, depthwise.kernel_size[0], depthwise.stride[0]
        blocks.append(Block(*sizes, same=True, expands=expands))
        blocks[-1].residual = block.residual
    classes, head_width = state["classifier.weight"].shape
    result = MobileNetwork(len(state["stem.weight"]), blocks, out_channels, head_width, same=True, classes=classes)
    result.load_state_dict(state)
    return result
