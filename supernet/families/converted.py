"""Spaces made from a trained network by `supernet.conversion`: layers, and which of their channels are elastic.

The layout is records, not code. `largest` is the network itself. A group of channels that several layers share is one
`Channels`; a narrower choice keeps the first channels, which the conversion sorted by importance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from supernet.operators import Activation, Join, Kind, Operator, Operators, Parallel, Part
from supernet.space import SearchSpace, Value

IMAGE = 0  # the number of the channels of the image


@dataclass(frozen=True, slots=True)
class Channels:
    """A group of channels that layers share. width: all of them. unit: a narrower choice is a multiple of it.

    gene: the name of the gene whose value is the kept share of the channels; None keeps them whole.
    """

    width: int
    unit: int = 8
    gene: str | None = None

    def at(self, ratio: float) -> int:
        """The multiple of the unit that is nearest to a share of the channels; at least one unit.

        >>> [Channels(24).at(ratio) for ratio in (0.25, 0.5, 0.75, 1)]
        [8, 16, 16, 24]
        """
        if ratio == 1:
            return self.width
        return min(self.width, max(self.unit, int(ratio * self.width / self.unit + 0.5) * self.unit))


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator, as in `Operator`, without sizes. reads, writes: the numbers of its groups of channels.

    group_width: channels of one group of a grouped convolution; 1 if it is depthwise, None if it is dense.
    """

    kind: Kind
    reads: int
    writes: int
    kernel_size: int = 1
    stride: int = 1
    group_width: int | None = None
    bias: bool = False
    norm: bool = False
    norm_eps: float = 1e-5
    activation: Activation = None
    padding: int | None = None
    dilation: int = 1
    extra_padding: int = 0

    def record(self, width: Callable[[int], int], side: int) -> Operator:
        """The operator on an input of this side. width: the kept channels of a group, by its number."""
        in_channels = width(self.reads)
        return Operator(
            self.kind,
            in_channels,
            width(self.writes),
            side,
            self.kernel_size,
            self.stride,
            1 if self.group_width is None else in_channels // self.group_width,
            self.bias,
            self.norm,
            self.norm_eps,
            self.activation,
            self.padding,
            self.dilation,
            self.extra_padding,
        )


@dataclass(frozen=True, slots=True)
class Fork:
    """Branches over one input, joined, as in `Parallel`. reads: the number of the input's group of channels."""

    join: Join
    branches: tuple[tuple["Layer | Fork", ...], ...]
    reads: int
    activation: Activation = None

    def record(self, width: Callable[[int], int], side: int) -> Parallel:
        """The branches on an input of this side."""
        branches = tuple(records(branch, width, side) for branch in self.branches)
        return Parallel(self.join, branches, width(self.reads), side, activation=self.activation)


Layers = tuple[Layer | Fork, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Layers that run one after another. block: their stage and block, from 0; None if they belong to no stage."""

    layers: Layers
    block: tuple[int, int] | None = None

    def part_name(self, number: int) -> str:
        """The name of the part, which is also in the names of weights. number: of the section, from 1."""
        return f"layers{number}" if self.block is None else f"stage{self.block[0] + 1}.block{self.block[1] + 1}"


@dataclass(frozen=True, slots=True)
class ConvertedLayout:
    """The sections of a network in the order in which they run. logits: the number of the group of the logits.

    channels: by number. Group 0 has the image's channels and `logits` the classes of the space, whatever their width.
    """

    channels: tuple[Channels, ...]
    sections: tuple[Section, ...]
    logits: int

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """One part for each section. It depends on the widths that it reads and writes, and on its stage's depth."""
        numbers = {gene.name: number for number, gene in enumerate(space.genes)}
        sides = cache(lambda resolution: self._sides(space, resolution))
        parts = []
        for place, section in enumerate(self.sections):
            names = {self.channels[group].gene for group in groups(section.layers)} - {None}
            genes = sorted(numbers[name] for name in names if name is not None)
            droppable = section.block is not None and section.block[1] >= space.depths[section.block[0]][0]
            depth = (space.depth_gene(section.block[0]),) if section.block is not None and droppable else ()
            build = self._builder(space, place, bool(depth), [space.genes[gene].name for gene in genes], sides)
            parts.append(Part(section.part_name(place + 1), (0, *depth, *genes), build))
        return tuple(parts)

    def _builder(
        self,
        space: SearchSpace,
        place: int,
        droppable: bool,
        names: Sequence[str],
        sides: Callable[[int], tuple[int, ...]],
    ) -> Callable[..., Operators]:
        """The function from resolution, depth where the section can be dropped, and widths to the section's records."""
        section = self.sections[place]

        def build(resolution: Value, *values: Value) -> Operators:
            if droppable and section.block is not None:
                if section.block[1] >= values[0]:
                    return ()
                values = values[1:]
            width = self._widths(space, dict(zip(names, values, strict=True)))
            return records(section.layers, width, sides(int(resolution))[place])

        return build

    def _widths(self, space: SearchSpace, ratios: Mapping[str, Value]) -> Callable[[int], int]:
        def width(group: int) -> int:
            if group == IMAGE:
                return space.in_channels
            if group == self.logits:
                return space.classes
            channels = self.channels[group]
            return channels.width if channels.gene is None else channels.at(ratios[channels.gene])

        return width

    def _sides(self, space: SearchSpace, resolution: int) -> tuple[int, ...]:
        """Per section, the side of its input."""
        width = self._widths(space, {channels.gene: 1 for channels in self.channels if channels.gene is not None})
        sides, side = [], resolution
        for section in self.sections:
            sides.append(side)
            side = records(section.layers, width, side)[-1].out_side
        return tuple(sides)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The layout from its fields as JSON."""
        channels = tuple(Channels(**fields) for fields in data["channels"])
        sections = tuple(
            Section(_layers(fields["layers"]), None if fields["block"] is None else tuple(fields["block"]))
            for fields in data["sections"]
        )
        return cls(channels, sections, data["logits"])


def records(layers: Layers, width: Callable[[int], int], side: int) -> Operators:
    """The operators of consecutive layers. side: of the first one's input. width: by the number of a group."""
    result: list[Operator | Parallel] = []
    for layer in layers:
        result.append(layer.record(width, side))
        side = result[-1].out_side
    return tuple(result)


def groups(layers: Layers) -> set[int]:
    """The numbers of all groups of channels that layers read or write."""
    result: set[int] = set()
    for layer in layers:
        if isinstance(layer, Fork):
            result |= {layer.reads}.union(*(groups(branch) for branch in layer.branches))
        else:
            result |= {layer.reads, layer.writes}
    return result


def _layers(data: Sequence[Mapping[str, Any]]) -> Layers:
    return tuple(
        Fork(**{**fields, "branches": tuple(map(_layers, fields["branches"]))})
        if "branches" in fields
        else Layer(**fields)
        for fields in data
    )


PRESETS: dict[str, SearchSpace] = {}  # every converted network has a space of its own
