"""The torch half of a family that needs none of its own: everything follows from its operator records.

Weights are shared in two ways. Each choice of the genes in `Part.paths` has weights of its own, as the choice blocks
of Single-Path One-Shot (arXiv:1904.00420). All else shares one set, as large as the widest choice needs, of which a
narrower one takes the first channels (arXiv:1812.08928). A subnet runs as the very static modules that `extract`
builds, on slices of the shared tensors.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from supernet.costs.tables import part_variants
from supernet.networks.elastic import first_channels, importance_order, permute
from supernet.networks.static import static_layers
from supernet.networks.supernet import Supernet, initialise
from supernet.operators import Operator, Operators, Parallel, Part, flat
from supernet.space import Architecture, SearchSpace, Value


class SlicedSupernet(Supernet):
    """A supernet of any family whose layout describes it: choice blocks, elastic widths, elastic depth."""

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        """Fresh weights from `generator`; None leaves them to be loaded.

        Raises:
            ValueError: two choices that should share weights run different kinds of operators.
        """
        super().__init__(space)
        self.shared = nn.ModuleDict()
        for part, paths in self._paths():
            self.shared[_key(part, paths)] = static_layers(_widest(space, part, paths))
        self._skeletons: dict[tuple[int, Operators], _Skeleton] = {}
        self._owners: dict[str, dict[str, tuple[nn.Module, str]]] = {}
        if generator is not None:
            initialise(self, generator)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits of one subnet. images: (N, C, R, R), normalised, R = arch.resolution."""
        self.check_image_size(images, arch)
        x = images
        for _, key, records in self._parts(arch):
            skeleton = self._skeleton(records)
            tensors = self._tensors_of(key)
            slices = {name: first_channels(tensors[name], *shape) for name, shape in skeleton.shapes.items()}
            x = functional_call(skeleton.network.train(self.training), slices, (x,))
        return x

    @torch.no_grad()
    def extract(self, arch: Architecture) -> nn.Sequential:
        """The subnet as a plain static network with its own copy of the weights and statistics."""
        network: OrderedDict[str, nn.Module] = OrderedDict()
        for part, key, records in self._parts(arch):
            static, shared = static_layers(records).to(next(self.parameters())), self.shared[key].state_dict()
            for name, tensor in static.state_dict().items():
                tensor.copy_(first_channels(shared[name], *tensor.shape))
            network[part.name.replace(".", "_")] = static
        return nn.Sequential(network).train(self.training)

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Sequence[int]]) -> None:
        """Reorder the channels between the convolutions of every part, by the L1 norm of the weights that read them.

        Channels between parts, those of a residual stream, stay in their order, since every block reads them.
        """
        choices = [
            [gene.choices[index] for index in indices] for gene, indices in zip(self.space.genes, trained, strict=True)
        ]
        for part, paths in self._paths():
            variants = _variants(part, paths, choices)
            _sort(_widest(self.space, part, paths), self.shared[_key(part, paths)], variants)

    def _paths(self) -> Iterator[tuple[Part, dict[int, Value]]]:
        """Every part with every choice of the genes that give it weights of their own."""
        for part in self.space.parts:
            for chosen in product(*(self.space.genes[gene].choices for gene in part.paths)):
                yield part, dict(zip(part.paths, chosen, strict=True))

    def _parts(self, arch: Architecture) -> Iterator[tuple[Part, str, Operators]]:
        """The kept parts, each with the key of its weights and its records."""
        values = self.space.gene_values(arch)
        for part in self.space.parts:
            if records := part.records(values):
                yield part, _key(part, {gene: values[gene] for gene in part.paths}), records

    def _skeleton(self, records: Operators) -> "_Skeleton":
        key = threading.get_ident(), _at_any_side(records)  # while it runs, a skeleton holds the slices of one thread
        if key not in self._skeletons:
            with torch.device("meta"):
                self._skeletons[key] = _Skeleton(static_layers(key[1]))
        return self._skeletons[key]

    def _tensors_of(self, key: str) -> dict[str, Tensor]:
        """Every parameter and buffer under a key, by name.

        Only the modules that hold them are remembered: a tensor may be replaced, as by a move to another device.
        """
        if key not in self._owners:
            module = self.shared[key]
            places = {name: name.rpartition(".") for name in module.state_dict()}
            self._owners[key] = {name: (module.get_submodule(path), last) for name, (path, _, last) in places.items()}
        return {name: getattr(owner, last) for name, (owner, last) in self._owners[key].items()}


class _Skeleton:
    """A static network without weights, and the shapes of what it needs of the shared tensors."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}


def _key(part: Part, paths: dict[int, Value]) -> str:
    """Name of the weights of one path through a part."""
    return "__".join([part.name.replace(".", "_"), *(str(paths[gene]).replace(".", "p") for gene in part.paths)])


def _at_any_side(records: Operators) -> Operators:
    """The same layers, whatever the resolution: they hold the same weights."""
    return tuple(
        replace(record, side=0, branches=tuple(_at_any_side(branch) for branch in record.branches))
        if isinstance(record, Parallel)
        else replace(record, side=0)
        for record in records
    )


def _variants(part: Part, paths: dict[int, Value], choices: Sequence[Sequence[Value]]) -> list[Operators]:
    """The distinct records, at any side, of one path through a part. choices: per gene of the space."""
    on_path = [[paths[gene]] if gene in paths else values for gene, values in enumerate(choices)]
    return list(dict.fromkeys(_at_any_side(records) for records in part_variants(part, on_path) if records))


def _widest(space: SearchSpace, part: Part, paths: dict[int, Value]) -> Operators:
    """The records of one path through a part with the most channels that any choice gives each of them."""
    variants = _variants(part, paths, [gene.choices for gene in space.genes])
    widest, *others = variants or [()]  # a path may be to leave the part out
    for records in others:
        try:
            widest = _all_wider(widest, records)
        except ValueError as error:
            raise ValueError(
                f"{space.name}: the choices of {part.name} cannot share weights, since they run different operators; "
                "list the gene that makes the difference in Part.paths"
            ) from error
    return widest


def _all_wider(one: Operators, other: Operators) -> Operators:
    """`_wider` of every two records; raises what that does, ValueError too if one holds more records."""
    return tuple(_wider(*both) for both in zip(one, other, strict=True))


def _wider(one: Operator | Parallel, other: Operator | Parallel) -> Operator | Parallel:
    """A record with the larger of the channels of two that are otherwise equal.

    Raises:
        ValueError: they differ in more than channels.
    """
    wide: dict[str, Any] = {"in_channels": max(one.in_channels, other.in_channels)}
    if isinstance(one, Parallel) and isinstance(other, Parallel):
        wide["branches"] = tuple(_all_wider(*both) for both in zip(one.branches, other.branches, strict=True))
    elif isinstance(one, Operator) and isinstance(other, Operator):
        wide["out_channels"] = max(one.out_channels, other.out_channels)
        if (one.groups, other.groups) == (one.in_channels, other.in_channels):
            wide["groups"] = wide["in_channels"]
    merged = replace(one, **wide)
    if type(one) is not type(other) or merged != replace(other, **wide):
        raise ValueError(f"{one} and {other} differ in more than channels")
    return merged


def _sort(widest: Operators, module: nn.Module, trained: list[Operators]) -> None:
    """Sort the channels between one dense convolution and the next, through depthwise ones, in place.

    trained: the records of every choice already trained; the inputs of their convolutions are where slices end.
    """
    slices = [[record.in_channels for record in flat(records) if record.kind == "conv"] for records in trained]
    convs = iter([layer for layer in module.modules() if isinstance(layer, nn.Conv2d)])
    norms = iter([layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)])
    writers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []  # of the channels that the next convolution reads
    number = -1
    for record in _in_order(widest):
        if record is None or record.kind != "conv":
            writers = []
            continue
        number += 1
        conv, norm = next(convs), next(norms) if record.norm else None
        if record.groups == 1:
            if writers:
                cuts = {in_channels[number] for in_channels in slices}
                _reorder(writers, conv, importance_order(conv.weight.abs().sum((0, 2, 3)), cuts))
            writers = [(conv, norm)]
        elif not record.groups == record.in_channels == record.out_channels:
            writers = []  # channels cannot leave their group
        elif writers:
            writers.append((conv, norm))


def _in_order(records: Operators) -> Iterator[Operator | None]:
    """Every operator in order, and None wherever a branch begins or ends."""
    for record in records:
        if isinstance(record, Parallel):
            for branch in record.branches:
                yield None
                yield from _in_order(branch)
            yield None
        else:
            yield record


def _reorder(writers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]], reader: nn.Conv2d, order: Tensor) -> None:
    """Give channels a new order in all that writes them and in the convolution that reads them."""
    permute(reader.weight, order, 1)
    for conv, norm in writers:
        for tensor in (conv.weight, conv.bias, *(_learned(norm) if norm else ())):
            if tensor is not None:
                permute(tensor, order)


def _learned(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var
