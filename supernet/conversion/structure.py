"""Steps become layers: series and forks, each layer with its weights and its groups of channels."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from supernet.conversion.trace import ConversionError, Step, Trace
from supernet.families.converted import IMAGE, Fork, Layer
from supernet.operators import Activation, Join, Kind

UNIT = 8  # channels: every narrower choice is a multiple


@dataclass(eq=False)
class Unit:
    """A layer with its weights. name: the path of its module in the network, or its node's name.

    tensors: of a static layer's state dict, `conv.weight`, `conv.bias`, `norm.weight`, ..., in that layer's shapes.
    last: the path of the module whose zero weights make the output 0: the batch norm, if there is one.
    """

    name: str
    layer: Layer
    tensors: dict[str, Tensor] = field(default_factory=dict)
    last: str = ""


@dataclass(eq=False)
class Branching:
    """A fork whose branches hold units. reads, writes: the numbers of its groups of channels."""

    name: str
    join: Join
    branches: list["Chain"]
    reads: int
    writes: int
    keeps_shape: bool
    activation: Activation = None


Chain = list[Unit | Branching]


class Groups:
    """Groups of channels that must have one width: a union-find over numbers."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self.widths: list[int] = []
        self._units: list[int] = []
        self._whole: dict[int, str] = {}
        self.follows: dict[int, int] = {}  # the channels inside squeeze-and-excite: those that it scales

    def add(self, width: int) -> int:
        """The number of a new group."""
        self._parents.append(len(self._parents))
        self.widths.append(width)
        self._units.append(UNIT)
        return len(self._parents) - 1

    def root(self, group: int) -> int:
        """The number that stands for a group and all groups that it was joined with."""
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def unite(self, *numbers: int) -> int:
        """Join groups, which have one width."""
        first, *others = sorted({self.root(number) for number in numbers})
        for other in others:
            self._parents[other] = first
            self._units[first] = math.lcm(self._units[first], self._units[other])
            if other in self._whole:
                self._whole.setdefault(first, self._whole[other])
        return first

    def keep_whole(self, group: int, reason: str) -> None:
        """Make a group keep all its channels."""
        self._whole.setdefault(self.root(group), reason)

    def use_unit(self, group: int, unit: int) -> None:
        """Make every narrower choice of a group a multiple of `unit`, too."""
        root = self.root(group)
        self._units[root] = math.lcm(self._units[root], unit)

    def reason(self, group: int) -> str | None:
        """Why a group keeps all its channels; None if it may be narrower."""
        return self._whole.get(self.root(group))

    def unit(self, group: int) -> int:
        """What every narrower choice of a group is a multiple of."""
        return self._units[self.root(group)]


@dataclass
class Structure:
    """A whole network. logits: the number of the group of its outputs."""

    chain: Chain
    groups: Groups
    logits: int


def units(chain: Sequence[Unit | Branching]) -> Iterator[Unit]:
    """Every unit, inside branches too, in the order in which they run."""
    for element in chain:
        if isinstance(element, Branching):
            for branch in element.branches:
                yield from units(branch)
        else:
            yield element


def layers_of(chain: Sequence[Unit | Branching], number: Callable[[int], int]) -> tuple[Layer | Fork, ...]:
    """The layout's layers. number: from a group of the structure to its place in the layout."""
    result: list[Layer | Fork] = []
    for element in chain:
        if isinstance(element, Branching):
            branches = tuple(layers_of(branch, number) for branch in element.branches)
            result.append(Fork(element.join, branches, number(element.reads), element.activation))
        else:
            layer = element.layer
            result.append(replace(layer, reads=number(layer.reads), writes=number(layer.writes)))
    return tuple(result)


def build_structure(trace: Trace) -> Structure:
    """The layers of a trace, with their weights, and which channels belong together.

    Raises:
        ConversionError: branches cross, a layer runs twice, or a step cannot be a layer.
    """
    return _Builder(trace).structure()


@dataclass(eq=False)
class _Join:
    """A joining step and the chains of steps that lead to it."""

    step: Step
    branches: list[list["Step | _Join"]]


Steps = list[Step | _Join]


@dataclass
class _Flow:
    """What flows between two layers. side: of the map. flat: its positions were flattened into the channels."""

    group: int
    side: int
    flat: bool = False


class _Builder:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.groups = Groups()
        self.dominators: dict[Step, tuple[Step, ...]] = {}  # per step: all steps on every way to it, itself last
        self.visited: set[Step] = set()
        self.layers: dict[nn.Module, str] = {}

    def structure(self) -> Structure:
        (image,) = (step for step in self._ordered() if step.kind == "input")
        self.groups.add(self.trace.in_channels)
        self.groups.keep_whole(IMAGE, "the image")
        flow = _Flow(IMAGE, image.side)
        chain = self._build(self._steps(image, self.trace.output), flow, top=True)
        if flow.flat:
            raise ConversionError(
                f"node {self.trace.output.name!r} returns the positions of a map; return (N, classes)"
            )
        if len(self.trace.output.shape) != 1:
            raise ConversionError(f"node {self.trace.output.name!r} returns a map; return (N, classes)")
        if not (isinstance(chain[-1], Unit) and chain[-1].layer.kind == "linear"):
            chain.append(Unit("flatten", Layer("flatten", flow.group, flow.group)))
        self.groups.keep_whole(flow.group, "the logits")
        return Structure(chain, self.groups, self.groups.root(flow.group))

    # From a graph to series and forks.

    def _ordered(self) -> list[Step]:
        """The steps that the output depends on, inputs first; fills `dominators`."""
        order: list[Step] = []
        stack = [(self.trace.output, iter(self.trace.output.inputs))]
        entered = {self.trace.output}
        while stack:
            step, inputs = stack[-1]
            following = next((i for i in inputs if i not in entered), None)
            if following is not None:
                entered.add(following)
                stack.append((following, iter(following.inputs)))
                continue
            stack.pop()
            order.append(step)
            common: tuple[Step, ...] = ()
            if step.inputs:
                common, *others = (self.dominators[i] for i in step.inputs)
                for other in others:
                    length = sum(1 for a, b in zip(common, other, strict=False) if a is b)
                    common = common[:length]
            self.dominators[step] = (*common, step)
        return order

    def _steps(self, start: Step, end: Step) -> Steps:
        """The steps after `start` up to `end`: those on every way, and forks between them."""
        result: Steps = []
        step = end
        while step is not start:
            if step in self.visited:
                raise ConversionError(
                    f"node {step.name!r} feeds branches that join in different places; only branches that start in one "
                    "place and join in one place are covered"
                )
            self.visited.add(step)
            if len(step.inputs) == 1:
                result.append(step)
                (step,) = step.inputs
            else:
                source = self.dominators[step][-2]
                result.append(_Join(step, [self._steps(source, operand) for operand in step.inputs]))
                step = source
        return result[::-1]

    # From steps to layers.

    def _build(self, steps: Steps, flow: _Flow, *, top: bool = False) -> Chain:
        """The layers of consecutive steps; moves `flow` past them."""
        chain: Chain = []
        for place, step in enumerate(steps):
            if isinstance(step, _Join):
                chain.append(self._fork(step, flow))
            elif step.kind in ("conv", "linear"):
                chain.append(self._weighted(step, flow, last=top and place == len(steps) - 1))
            elif step.kind == "norm":
                self._append_norm(chain, step, flow)
            elif step.kind == "activation":
                self._append_activation(chain, step, flow)
            elif step.kind == "flatten":
                flow.flat = flow.side > 1
            elif step.kind in ("pool", "max_pool", "avg_pool"):
                chain.append(self._pool(step, flow))
            else:
                raise ConversionError(f"node {step.name!r} {_UNCOVERED[step.kind]}")
            self._check_shape(step.step if isinstance(step, _Join) else step, flow)
        return chain

    def _check_shape(self, step: Step, flow: _Flow) -> None:
        """Compare what the layers would give with what the network gave."""
        width = self.groups.widths[flow.group] * (flow.side**2 if flow.flat else 1)
        side = 1 if flow.flat else flow.side
        if (width, side) != (step.shape[0], step.side) or len(set(step.shape[1:])) > 1:
            raise ConversionError(
                f"node {step.name!r} gives {' x '.join(map(str, step.shape))} values, and {width} channels of {side} x "
                f"{side} pixels would follow from its inputs; it is used in a way that is not covered"
            )

    def _fork(self, join: _Join, flow: _Flow) -> Branching:
        step, source = join.step, flow.group
        if flow.flat:
            raise ConversionError(f"node {step.name!r} joins branches of a flattened map; join them before flattening")
        flows = [_Flow(source, flow.side) for _ in join.branches]
        branches = [self._build(steps, branch) for steps, branch in zip(join.branches, flows, strict=True)]
        widths = [self.groups.widths[branch.group] for branch in flows]
        side = max(branch.side for branch in flows)
        if len(set(widths)) > 1 or any(branch.flat or branch.side not in (1, side) for branch in flows):
            shapes = " and ".join(f"{w} x {b.side} x {b.side}" for w, b in zip(widths, flows, strict=True))
            raise ConversionError(
                f"node {step.name!r} joins tensors of {shapes}; their channels must be equal, and only a map of one "
                "pixel may be repeated"
            )
        group = self.groups.unite(*(branch.group for branch in flows))
        keeps_shape = group == self.groups.root(source) and side == flow.side
        if step.kind == "add":
            self.groups.keep_whole(group, "in a sum")
        else:
            for branch in branches:
                if any(unit.layer.kind == "pool" for unit in units(branch)):
                    inside = {self.groups.root(unit.layer.writes) for unit in units(branch)} - {group}
                    self.groups.follows |= dict.fromkeys(inside, group)
        flow.group, flow.side = group, side
        kind: Join = "add" if step.kind == "add" else "multiply"
        return Branching(step.name, kind, branches, source, group, keeps_shape)

    def _weighted(self, step: Step, flow: _Flow, *, last: bool) -> Unit:
        """A convolution or a linear layer. A linear layer before others is a convolution of the whole map."""
        layer, reads = step.layer, flow.group
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        if layer in self.layers:
            raise ConversionError(
                f"layer {step.name!r} runs a second time, which shares its weights; give each call a layer of its own"
            )
        self.layers[layer] = step.name
        width, weight = self.groups.widths[reads], layer.weight.detach()
        if isinstance(layer, nn.Conv2d):
            writes = self._output_group(step.name, layer, reads)
            kernel_size, (padding, after) = layer.kernel_size[0], step.padding
            half = kernel_size % 2 == 1 and padding == after == kernel_size // 2 and layer.dilation[0] == 1
            record = Layer(
                "conv",
                reads,
                writes,
                kernel_size,
                layer.stride[0],
                None if layer.groups == 1 else layer.in_channels // layer.groups,
                layer.bias is not None,
                padding=None if half else padding,
                dilation=layer.dilation[0],
                extra_padding=after - padding,
            )
            flow.side = record.record(self.groups.widths.__getitem__, flow.side).out_side
        else:
            writes, side = self.groups.add(layer.out_features), flow.side
            if layer.in_features != width * side**2:
                raise ConversionError(f"layer {step.name!r} reads {layer.in_features} features of {width} channels")
            if last and side == 1:
                record = Layer("linear", reads, writes, bias=layer.bias is not None)
            else:
                padding_of_map = None if side == 1 else 0
                record = Layer("conv", reads, writes, side, bias=layer.bias is not None, padding=padding_of_map)
                weight = weight.view(layer.out_features, width, side, side)
            flow.side = 1
        flow.group, flow.flat = writes, False
        prefix = "" if record.kind == "linear" else "conv."
        tensors = {f"{prefix}weight": weight}
        if layer.bias is not None:
            tensors[f"{prefix}bias"] = layer.bias.detach()
        return Unit(step.name, record, tensors, step.name)

    def _output_group(self, name: str, conv: nn.Conv2d, reads: int) -> int:
        """The group that a convolution writes: a grouped one keeps the channels that it reads."""
        if conv.groups == 1:
            return self.groups.add(conv.out_channels)
        if conv.in_channels == conv.out_channels:
            self.groups.use_unit(reads, conv.in_channels // conv.groups)
            return reads
        writes = self.groups.add(conv.out_channels)
        for group in (reads, writes):
            self.groups.keep_whole(group, f"{name} has {conv.groups} groups of unequal inputs and outputs")
        return writes

    def _append_norm(self, chain: Chain, step: Step, flow: _Flow) -> None:
        norm = step.layer
        assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d | nn.SyncBatchNorm)
        if norm in self.layers:
            raise ConversionError(f"layer {step.name!r} runs a second time; give each call a layer of its own")
        self.layers[norm] = step.name
        if flow.flat:
            raise ConversionError(f"layer {step.name!r} normalises a flattened map; normalise it before flattening")
        unit = chain[-1] if chain else None
        if not (isinstance(unit, Unit) and unit.layer.kind == "conv" and not unit.layer.norm and not _active(unit)):
            unit = Unit(step.name, Layer("identity", flow.group, flow.group))
            chain.append(unit)
        unit.layer = replace(unit.layer, norm=True, norm_eps=norm.eps)
        unit.last = step.name
        for name in ("weight", "bias", "running_mean", "running_var"):
            unit.tensors[f"norm.{name}"] = getattr(norm, name).detach()

    def _append_activation(self, chain: Chain, step: Step, flow: _Flow) -> None:
        element = chain[-1] if chain else None
        if isinstance(element, Branching) and element.activation is None:
            element.activation = step.activation
        elif isinstance(element, Unit) and element.layer.kind in ("conv", "identity") and not _active(element):
            element.layer = replace(element.layer, activation=step.activation)
        else:
            chain.append(Unit(step.name, Layer("identity", flow.group, flow.group, activation=step.activation)))

    def _pool(self, step: Step, flow: _Flow) -> Unit:
        if step.kind == "pool":
            layer = Layer("pool", flow.group, flow.group)
        else:
            kernel_size, stride, padding = step.window
            half = padding == (kernel_size // 2 if step.kind == "max_pool" else -1) and (
                kernel_size % 2 == 1 or step.kind == "avg_pool"
            )
            kind: Kind = "max_pool" if step.kind == "max_pool" else "avg_pool"
            layer = Layer(kind, flow.group, flow.group, kernel_size, stride, padding=None if half else padding)
        flow.side = layer.record(self.groups.widths.__getitem__, flow.side).out_side
        return Unit(step.name, layer)


def _active(unit: Unit) -> bool:
    return unit.layer.activation is not None


_UNCOVERED = {
    "add_number": "adds a number; only relu6(x + 3) / 6 is covered, so fold it into the layer before",
    "multiply_number": "multiplies with a number; only relu6(x + 3) / 6 is covered, so fold it into the layer before",
    "pad": "pads a map for something else than a convolution; let that layer pad",
    "half_mean": "averages one dimension alone; average over height and width",
}
