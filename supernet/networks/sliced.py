"""A supernet for any family, made from the family's operator records alone.

Weights are shared in two ways. Each choice of the genes in `Part.paths` has its own weights, like the choice blocks of
Single-Path One-Shot (arXiv:1904.00420). All other choices share one set of weights, as large as the widest choice
needs; a narrower choice takes the first channels (arXiv:1812.08928). A subnet runs as the same static modules that
`extract` builds, on slices of the shared tensors.
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
    """A supernet with choice blocks, elastic widths and elastic depth, as the space's layout describes them."""

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights from `generator`; with None, leave them to be loaded.

        Raises:
            ValueError: two choices that share weights run different kinds of operators.
        """
        super().__init__(space)
        self.shared = nn.ModuleDict()
        for part, paths in self._paths():
            self.shared[_key(part, paths)] = static_layers(_widest(space, part, paths))
        self._skeletons = _Skeletons()
        self._owners: dict[str, dict[str, tuple[nn.Module, str]]] = {}
        if generator is not None:
            initialise(self, generator)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits of one subnet. images: (N, C, R, R), normalised, R = arch.resolution."""
        self.check_image_size(images, arch)
        x = images
        for _, key, records in self._parts(arch):
            skeleton = self._skeletons.get(records)
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

        Channels between parts, the residual stream, keep their order, since every block reads them.
        """
        choices = [
            [gene.choices[index] for index in indices] for gene, indices in zip(self.space.genes, trained, strict=True)
        ]
        for part, paths in self._paths():
            variants = _variants(part, paths, choices)
            _sort(_widest(self.space, part, paths), self.shared[_key(part, paths)], variants)

    def _paths(self) -> Iterator[tuple[Part, dict[int, Value]]]:
        """Every part with every combination of the choices that have weights of their own."""
        for part in self.space.parts:
            for choices in product(*(self.space.genes[gene].choices for gene in part.paths)):
                yield part, dict(zip(part.paths, choices, strict=True))

    def _parts(self, arch: Architecture) -> Iterator[tuple[Part, str, Operators]]:
        """The kept parts, each with the key of its weights and its records."""
        values = self.space.gene_values(arch)
        for part in self.space.parts:
            if records := part.records(values):
                yield part, _key(part, {gene: values[gene] for gene in part.paths}), records

    def _tensors_of(self, key: str) -> dict[str, Tensor]:
        """All parameters and buffers under a key, by name.

        Only the modules that hold the tensors are cached: a tensor may be replaced, as by a move to another device.
        """
        if key not in self._owners:
            module = self.shared[key]
            places = {name: name.rpartition(".") for name in module.state_dict()}
            self._owners[key] = {name: (module.get_submodule(path), last) for name, (path, _, last) in places.items()}
        return {name: getattr(owner, last) for name, (owner, last) in self._owners[key].items()}


class _Skeleton:
    """A static network without weights, and the shapes of the weights that it takes from the shared tensors."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}


class _Skeletons(threading.local):
    """The skeletons of a supernet, made when first needed; at most one per variant of a part.

    Every thread has its own, freed when the thread ends: while a skeleton runs, it holds the slices of one subnet.
    A copy of the supernet starts with none.
    """

    def __init__(self) -> None:
        self._cache: dict[Operators, _Skeleton] = {}

    def __reduce__(self) -> tuple[type["_Skeletons"], tuple[()]]:
        return _Skeletons, ()

    def get(self, records: Operators) -> _Skeleton:
        """The skeleton of some records, whatever their image sizes."""
        key = _at_any_image_size(records)
        if key not in self._cache:
            with torch.device("meta"):
                self._cache[key] = _Skeleton(static_layers(key))
        return self._cache[key]


def _key(part: Part, paths: dict[int, Value]) -> str:
    """The name of the weights of one path through a part."""
    return "__".join([part.name.replace(".", "_"), *(str(paths[gene]).replace(".", "p") for gene in part.paths)])


def _at_any_image_size(records: Operators) -> Operators:
    """The records without image sizes, on which no weight depends."""
    return tuple(
        replace(record, side=0, branches=tuple(_at_any_image_size(branch) for branch in record.branches))
        if isinstance(record, Parallel)
        else replace(record, side=0)
        for record in records
    )


def _variants(part: Part, paths: dict[int, Value], choices: Sequence[Sequence[Value]]) -> list[Operators]:
    """The distinct records, without image sizes, of one path through a part. choices: per gene of the space."""
    path_choices = [[paths[gene]] if gene in paths else values for gene, values in enumerate(choices)]
    return list(dict.fromkeys(_at_any_image_size(records) for records in part_variants(part, path_choices) if records))


def _widest(space: SearchSpace, part: Part, paths: dict[int, Value]) -> Operators:
    """The records of one path through a part, each with the most channels that any choice gives it."""
    variants = _variants(part, paths, [gene.choices for gene in space.genes])
    widest, *others = variants or [()]  # on some paths the part is dropped
    for records in others:
        try:
            widest = _all_wider(widest, records)
        except ValueError as error:
            raise ValueError(
                f"{space.name}: the choices of {part.name} cannot share weights, since they run different operators; "
                "list the gene that makes the difference in Part.paths"
            ) from error
    return widest


def _all_wider(a: Operators, b: Operators) -> Operators:
    """`_wider` of the records at each position.

    Raises:
        ValueError: two records differ in more than channels, or one list is longer.
    """
    return tuple(_wider(*pair) for pair in zip(a, b, strict=True))


def _wider(a: Operator | Parallel, b: Operator | Parallel) -> Operator | Parallel:
    """A record as wide as the wider of two records that are otherwise equal.

    Raises:
        ValueError: they differ in more than channels.
    """
    wide: dict[str, Any] = {"in_channels": max(a.in_channels, b.in_channels)}
    if isinstance(a, Parallel) and isinstance(b, Parallel):
        wide["branches"] = tuple(_all_wider(*pair) for pair in zip(a.branches, b.branches, strict=True))
    elif isinstance(a, Operator) and isinstance(b, Operator):
        wide["out_channels"] = max(a.out_channels, b.out_channels)
        if a.in_channels // a.groups == b.in_channels // b.groups:  # the same width of a group, 1 in a depthwise one
            wide["groups"] = max(a.groups, b.groups)
    merged = replace(a, **wide)
    if type(a) is not type(b) or merged != replace(b, **wide):
        raise ValueError(f"{a} and {b} differ in more than channels")
    return merged


def _sort(widest: Operators, module: nn.Module, trained: list[Operators]) -> None:
    """Sort the channels between a dense convolution and the next dense one in place, through depthwise ones.

    trained: the records of every choice already trained; their convolutions' input channels are where slices end.
    """
    slices = [[record.in_channels for record in flat(records) if record.kind == "conv"] for records in trained]
    convs = iter([layer for layer in module.modules() if isinstance(layer, nn.Conv2d)])
    norms = iter([layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)])
    writers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []  # write the channels that the next convolution reads
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
    """All operators in order, and None wherever a branch begins or ends."""
    for record in records:
        if isinstance(record, Parallel):
            for branch in record.branches:
                yield None
                yield from _in_order(branch)
            yield None
        else:
            yield record


def _reorder(writers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]], reader: nn.Conv2d, order: Tensor) -> None:
    """Reorder channels in the layers that write them and in the convolution that reads them."""
    permute(reader.weight, order, 1)
    for conv, norm in writers:
        for tensor in (conv.weight, conv.bias, *(_learned(norm) if norm else ())):
            if tensor is not None:
                permute(tensor, order)


def _learned(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var
