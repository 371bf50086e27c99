"""A trained network as a supernet: its space, and its weights with the most important channels first."""

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from supernet.conversion.structure import Branching, Chain, Groups, Structure, Unit, build_structure, layers_of, units
from supernet.conversion.trace import ConversionError, Trace, trace
from supernet.families.converted import IMAGE, Channels, ConvertedLayout, Section
from supernet.networks.sliced import SlicedSupernet
from supernet.operators import Operator, Operators
from supernet.space import Architecture, Gene, SearchSpace

RATIOS = (0.25, 0.5, 0.75, 1.0)  # of the channels that a choice of width keeps
RESOLUTIONS = 5  # at most, from half of the traced image size to all of it
BLOCK_GENE = re.compile(r"stage\d+\.block\d+\.width")
GRID = 4  # pixels: every resolution is a multiple
DROPPED = (nn.Dropout, nn.Dropout2d, StochasticDepth)
TOLERANCE = 1e-5  # times max(1, largest |logit|)


@dataclass(frozen=True)
class Conversion:
    """A converted network.

    supernet: its `largest` subnet is the network. groups: the elastic channels. ends: by stage and block, from 0, of
    each block that can be dropped, the path of the layer that makes its branch 0 if its weights are 0.
    left_whole: by the path of the layer that writes them, why channels are not elastic. remarks: what else was decided,
    one sentence each. difference: largest |supernet - network| over the logits of random images.
    """

    supernet: SlicedSupernet
    groups: tuple["ElasticGroup", ...]
    ends: Mapping[tuple[int, int], str]
    left_whole: Mapping[str, str]
    remarks: tuple[str, ...]
    difference: float

    @property
    def space(self) -> SearchSpace:
        """The space of the network's subnets."""
        return self.supernet.space

    @torch.no_grad()
    def masked(self, network: nn.Module, arch: Architecture) -> nn.Module:
        """A copy of the network in evaluation mode that does what a subnet does, with zeros in place of what it lacks.

        Nothing reads a channel that the subnet lacks, and the branch of a block that it lacks gives 0.
        """
        result = copy.deepcopy(network).eval()
        values = dict(zip((gene.name for gene in self.space.genes), self.space.gene_values(arch), strict=True))
        for group in self.groups:
            dropped = group.order[group.channels.at(values[str(group.channels.gene)]) :]
            for path in group.readers:
                weight = result.get_submodule(path).weight
                weight.view(len(weight), group.channels.width, -1)[:, dropped] = 0
        for (stage, block), path in self.ends.items():
            if block >= len(arch.stages[stage]):
                for parameter in result.get_submodule(path).parameters():
                    parameter.zero_()
        return result

    def compare(self, network: nn.Module, arch: Architecture) -> float:
        """The largest |subnet - masked network| over the logits of random images, in single precision.

        Where rounding, in another order of the channels, exceeds the limit, double precision decides.

        Raises:
            ConversionError: the difference exceeds 1e-5 * max(1, largest |logit|).
        """
        difference, limit = self.largest_difference(network, arch, torch.float32)
        if difference <= limit:
            return difference
        exact, limit = self.largest_difference(network, arch, torch.float64)
        if not exact <= limit:
            raise ConversionError(
                f"the logits of the subnet {json.dumps(arch.to_json())} differ from the network's by {exact:.3g}; the "
                f"limit is {limit:.3g}. The network does something that its trace does not show; nothing was converted"
            )
        return difference

    @torch.no_grad()
    def largest_difference(self, network: nn.Module, arch: Architecture, precision: torch.dtype) -> tuple[float, float]:
        """The largest |subnet - masked network| over the logits of random images, and its limit."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, self.space.in_channels, arch.resolution, arch.resolution, generator=generator)
        supernet = self.supernet.eval()
        if precision != torch.float32:
            supernet = copy.deepcopy(supernet).to(precision)
        expected = self.masked(network, arch).to(precision)(images.to(precision))
        difference = float((supernet(images.to(precision), arch) - expected).abs().max())
        return difference, TOLERANCE * max(1.0, float(expected.abs().max()))


@dataclass(frozen=True)
class ElasticGroup:
    """Channels whose number a gene chooses. order: (C,) old numbers by descending importance.

    channels: as in the layout. readers: the paths of the dense layers that read them.
    """

    channels: Channels
    order: Tensor
    readers: tuple[str, ...]


def convert(network: nn.Module, image_size: int, name: str, resolutions: Sequence[int] | None = None) -> Conversion:
    """Make a space of a trained network's subnets, and a supernet that holds the network's weights.

    network: (N, C, image_size, image_size) to (N, classes); on the CPU; it is not changed. name: of the space.
    resolutions: image sizes of the subnets, up to `image_size`, which is always one of them; None takes sizes from half
    of it.

    Raises:
        ConversionError: the network or a part of it is not covered; the message names the node and what to do.
    """
    if image_size < GRID or image_size % GRID:
        raise ConversionError(f"the image size is {image_size}; a multiple of {GRID} from {GRID} upwards is needed")
    for size in resolutions or ():
        if not GRID <= size <= image_size or size % GRID:
            raise ConversionError(
                f"a resolution is {size}; multiples of {GRID} from {GRID} to the image size, {image_size}, are needed"
            )
    traced = trace(network, image_size)
    structure = build_structure(traced)
    plan = _Plan(structure)
    groups = plan.sort_channels()
    space = plan.space(name, traced, image_size, resolutions)
    supernet = SlicedSupernet(space)
    _load(supernet.eval(), structure.chain)
    remarks = tuple(_remarks(network, traced, space))
    conversion = Conversion(supernet, groups, plan.ends(), plan.left_whole(), remarks, 0.0)
    narrowest = space.encode(space.largest())
    for gene in (*range(1, space.depth_gene(0)), *range(space.depth_gene(len(space.depths)), space.num_genes)):
        narrowest[gene] = 0
    conversion.compare(network, space.decode(narrowest))
    return replace(conversion, difference=conversion.compare(network, space.largest()))


@dataclass(eq=False)
class _SectionPlan:
    elements: Chain
    block: tuple[int, int] | None = None


class _Plan:
    """Sections, stages and genes of a structure."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.groups: Groups = structure.groups
        self.sections, self.stages = _sections(structure.chain, structure.groups)
        self.writers: dict[int, list[Unit]] = defaultdict(list)
        self.readers: dict[int, list[Unit]] = defaultdict(list)
        places: dict[int, set[int]] = defaultdict(set)
        for place, section in enumerate(self.sections):
            for unit in units(section.elements):
                reads, writes = self.groups.root(unit.layer.reads), self.groups.root(unit.layer.writes)
                places[reads].add(place)
                places[writes].add(place)
                if unit.tensors:
                    self.writers[writes].append(unit)
                if unit.layer.kind in ("conv", "linear") and unit.layer.group_width is None:
                    self.readers[reads].append(unit)
        self.numbers = {root: number for number, root in enumerate(sorted(places))}
        self.channels = self._channels(places)

    def _channels(self, places: Mapping[int, set[int]]) -> dict[int, Channels]:
        """By group, its channels with the gene that chooses among them."""
        genes: dict[int, str] = {}
        for root in self.numbers:
            followed = self.groups.root(self.groups.follows.get(root, root))
            for group in (followed, root):  # a gate's channels follow those that it scales, if these are elastic
                if self.groups.reason(root) is None and self.groups.reason(group) is None:
                    genes[root] = self._gene(group, places[group])
                    break
        members: dict[str, list[int]] = defaultdict(list)
        for root, gene in genes.items():
            members[gene].append(root)
        self.choices: dict[str, tuple[float, ...]] = {}
        for gene, roots in members.items():
            ratios: dict[tuple[int, ...], float] = {}
            for ratio in reversed(RATIOS):
                widths = (Channels(self.groups.widths[root], self.groups.unit(root)).at(ratio) for root in roots)
                ratios.setdefault(tuple(widths), ratio)
            self.choices[gene] = tuple(sorted(ratios.values()))
        return {
            root: Channels(
                self.groups.widths[root],
                self.groups.unit(root),
                genes[root] if root in genes and len(self.choices[genes[root]]) > 1 else None,
            )
            for root in self.numbers
        }

    def _gene(self, root: int, places: set[int]) -> str:
        """The name of a group's gene: its block's if the group lies in one block, else one of its own."""
        (block,) = {self.sections[place].block for place in places} if len(places) == 1 else {None}
        if block is not None:
            return f"stage{block[0] + 1}.block{block[1] + 1}.width"
        path = self.writers[root][0].name
        return f"{path}.out.width" if BLOCK_GENE.fullmatch(f"{path}.width") else f"{path}.width"

    @torch.no_grad()
    def sort_channels(self) -> tuple[ElasticGroup, ...]:
        """Put the most important channels first in every elastic group, in all layers that write or read it."""
        result = []
        for root, channels in self.channels.items():
            if channels.gene is None:
                continue
            writers, readers = self.writers[root], self.readers[root]
            order = _order(writers, readers, channels)
            for unit in writers:
                for name, tensor in unit.tensors.items():
                    unit.tensors[name] = tensor.index_select(0, order)
            for unit in readers:
                name = "conv.weight" if unit.layer.kind == "conv" else "weight"
                unit.tensors[name] = unit.tensors[name].index_select(1, order)
            result.append(ElasticGroup(channels, order, tuple(unit.name for unit in readers)))
        return tuple(result)

    def space(self, name: str, traced: Trace, image_size: int, resolutions: Sequence[int] | None) -> SearchSpace:
        """The space, at the resolutions at which the network runs.

        Raises:
            ConversionError: it does not run at one of `resolutions`.
        """
        layout = ConvertedLayout(
            tuple(self.channels[root] for root in sorted(self.numbers)),
            tuple(
                Section(layers_of(section.elements, lambda group: self.numbers[self.groups.root(group)]), section.block)
                for section in self.sections
            ),
            self.numbers[self.structure.logits],
        )
        used = {channels.gene for channels in self.channels.values() if channels.gene is not None}
        extra = sorted(gene for gene in used if not BLOCK_GENE.fullmatch(gene))
        block_choices = tuple(
            tuple((self.choices.get(f"stage{s}.block{b}.width", (1.0,)),) for b in range(1, blocks + 1))
            for s, blocks in enumerate(self.stages, 1)
        )

        def at(resolutions: tuple[int, ...]) -> SearchSpace:
            return SearchSpace(
                name=name,
                family="converted",
                classes=self.groups.widths[self.structure.logits],
                in_channels=traced.in_channels,
                resolutions=resolutions,
                depths=tuple(tuple(range(_fewest_blocks(blocks), blocks + 1)) for blocks in self.stages),
                block_genes=(Gene("width", RATIOS),),
                layout=layout,
                extra_genes=tuple(Gene(gene, self.choices[gene]) for gene in extra),
                block_choices=block_choices,
            )

        return at(_resolutions(at((image_size,)), traced, resolutions))

    def ends(self) -> dict[tuple[int, int], str]:
        """Per block that can be dropped, the path of the layer that makes its branch 0 if its weights are 0."""
        ends = {}
        for section in self.sections:
            if section.block is not None and section.block[1] >= _fewest_blocks(self.stages[section.block[0]]):
                (fork,) = section.elements
                assert isinstance(fork, Branching)
                (branch,) = filter(None, fork.branches)
                if paths := [unit.last for unit in branch if isinstance(unit, Unit) and unit.last]:
                    ends[section.block] = paths[-1]
        return ends

    def left_whole(self) -> dict[str, str]:
        """Why each group of channels that is not elastic is not."""
        result = {}
        for root, channels in self.channels.items():
            if channels.gene is None and root != IMAGE and self.writers[root]:
                narrow = f"{channels.width} channels are fewer than two choices, multiples of {channels.unit}, need"
                result[self.writers[root][0].name] = self.groups.reason(root) or narrow
        return result


def _sections(chain: Chain, groups: Groups) -> tuple[list[_SectionPlan], list[int]]:
    """The sections of a network, and per stage its number of blocks.

    A stage is a run of residual blocks that keep their shape. The layers that change the shape before the run are its
    first block, which is always kept: another residual block, or the last dense convolution and what leads from the one
    before it.
    """
    sections: list[_SectionPlan] = []
    stages: list[int] = []
    gap: Chain = []
    growing = False  # whether a stage ends right before the next element

    def close_gap() -> None:
        sections.extend(_SectionPlan(piece) for piece in _pieces(gap))
        gap.clear()

    def add_block(elements: Chain, *, first: bool) -> None:
        if first:
            stages.append(0)
        sections.append(_SectionPlan(elements, (len(stages) - 1, stages[-1])))
        stages[-1] += 1

    for element in chain:
        if not (isinstance(element, Branching) and element.join == "add"):
            gap.append(element)
            growing = False
            continue
        droppable = element.keeps_shape and len(element.branches) == 2 and not all(element.branches)
        if not droppable or not growing:
            start = _transition(gap, groups) if droppable else len(gap)
            transition = gap[start:]
            del gap[start:]
            close_gap()
            if transition:
                add_block(transition, first=True)
            add_block([element], first=not transition)
        else:
            add_block([element], first=False)
        growing = True
    close_gap()
    return sections, stages


def _fewest_blocks(blocks: int) -> int:
    """The smallest depth of a stage: half of its blocks, rounded up."""
    return -(-blocks // 2)


def _transition(gap: Chain, groups: Groups) -> int:
    """Where in a gap the block begins that changes the shape for the next stage; the gap's length if there is none."""
    dense = [place for place, element in enumerate(gap) if _is_dense(element)]
    if len(dense) < 2:
        return len(gap)
    last = gap[dense[-1]]
    assert isinstance(last, Unit)
    entering = groups.root(last.layer.reads)
    for place in dense[:-1]:
        element = gap[place]
        if isinstance(element, Unit) and groups.root(element.layer.writes) == entering:
            return place if groups.reason(entering) is None else len(gap)
    return len(gap)


def _pieces(gap: Chain) -> list[Chain]:
    """Layers of no stage in pieces of one dense layer and what follows it, so that a piece depends on few genes."""
    pieces: list[Chain] = []
    dense = False
    for element in gap:
        if not pieces or (dense and _is_dense(element)):
            pieces.append([])
            dense = False
        pieces[-1].append(element)
        dense = dense or _is_dense(element)
    return pieces


def _is_dense(element: Unit | Branching) -> bool:
    return isinstance(element, Unit) and element.layer.kind in ("conv", "linear") and element.layer.group_width is None


def _order(writers: Sequence[Unit], readers: Sequence[Unit], channels: Channels) -> Tensor:
    """(C,) channel numbers by descending importance; channels of one group of a grouped convolution stay together.

    A channel's importance is the L1 norm of the weights that read it times the scale of its last batch norm, which is
    about the channel's standard deviation.
    """
    importance = torch.zeros(channels.width)
    for unit in readers:
        weight = unit.tensors["conv.weight" if unit.layer.kind == "conv" else "weight"]
        importance += weight.abs().sum([axis for axis in range(weight.ndim) if axis != 1])
    scales = [unit.tensors["norm.weight"].abs() for unit in writers if unit.layer.norm]
    if scales:
        importance = importance * scales[-1]
    group_widths = [unit.layer.group_width for unit in writers if unit.layer.group_width is not None]
    width = max(group_widths, default=1)
    ranked = importance.view(-1, width).sum(1).argsort(descending=True, stable=True)
    return (ranked[:, None] * width + torch.arange(width)).flatten()


def _resolutions(space: SearchSpace, traced: Trace, requested: Sequence[int] | None) -> tuple[int, ...]:
    """The requested image sizes, or those from half of the traced size to all of it, in equal steps.

    The steps are multiples of the network's stride.
    """
    (image_size,) = space.resolutions
    sizes: Sequence[int] = requested or _steps(space)
    largest = space.largest()
    fitting = {
        size
        for size in sizes
        if not traced.fixed_size and all(_fits(records) for _, records in space.part_operators(largest.at(size)))
    } | {image_size}
    if requested and (misfits := sorted(set(requested) - fitting)):
        reason = "a layer needs a map of one size" if traced.fixed_size else "a map vanishes or branches differ in size"
        raise ConversionError(
            f"the network does not run at the resolution {misfits[0]}, only at {image_size}: {reason}; leave it out"
        )
    return tuple(sorted(fitting))


def _steps(space: SearchSpace) -> range:
    (image_size,) = space.resolutions
    smallest_map = min(record.side for record in space.operators(space.largest()) if record.side > 1)
    stride = math.lcm(GRID, -(-image_size // smallest_map))
    sizes = range(image_size, image_size // 2 - 1, -stride)
    return sizes[:: -(-len(sizes) // RESOLUTIONS)]


def _fits(operators: Operators) -> bool:
    """Whether no map vanishes, and the branches of every fork give maps of one size or of one pixel."""
    for record in operators:
        if isinstance(record, Operator):
            if record.out_side < 1:
                return False
            continue
        sides = {branch[-1].out_side if branch else record.side for branch in record.branches}
        if len(sides - {1}) > 1 or not all(map(_fits, record.branches)):
            return False
    return True


def _remarks(network: nn.Module, traced: Trace, space: SearchSpace) -> list[str]:
    """What the conversion decided beside widths and depths."""
    remarks = list(traced.remarks)
    if traced.fixed_size:
        remarks.append(f"the resolution stays {space.resolutions[0]}: a layer needs a map of just this size")
    dropped = [type(layer).__name__ for layer in network.modules() if isinstance(layer, DROPPED) and _acts(layer)]
    if dropped:
        kinds = ", ".join(f"{dropped.count(kind)} x {kind}" for kind in dict.fromkeys(dropped))
        remarks.append(f"left out, as a training file sets its own: {kinds}")
    return remarks


def _acts(layer: nn.Module) -> bool:
    return float(getattr(layer, "p", 0)) > 0


@torch.no_grad()
def _load(supernet: SlicedSupernet, chain: Chain) -> None:
    """Copy the weights of all units into the supernet, whose layers are in the same order."""
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    layers = [layer for layer in supernet.shared.modules() if isinstance(layer, kinds)]
    tensors = [tensor for layer in layers for name, tensor in layer.state_dict().items() if "num_batches" not in name]
    sources = [tensor for unit in units(chain) for tensor in unit.tensors.values()]
    for target, source in zip(tensors, sources, strict=True):
        assert target.shape == source.shape
        target.copy_(source)
