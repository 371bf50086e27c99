"""Operator records: what one architecture runs, as plain values.

Every cost of a network (FLOPs, parameters, memory, the size of its file, the blocks that a device probe measures) is
computed from these records, and static networks are built from them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

FLOAT = 4  # bytes

Kind = Literal["conv", "linear", "pool", "max_pool", "avg_pool", "shuffle", "identity", "flatten"]
Join = Literal["add", "multiply", "concat"]
Activation = Literal["relu", "relu6", "h_swish", "h_sigmoid", "silu", "gelu", "sigmoid"] | None


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least 90 % of it (MobileNet's rule, arXiv:1905.02244)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def downsampled(side: int, *strides: int) -> int:
    """The side of a feature map after layers of these strides; each layer rounds up."""
    for stride in strides:
        side = -(-side // stride)
    return side


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator on one image.

    kind: conv and linear hold weights; pool is the mean over all positions; max_pool and avg_pool slide a window;
    shuffle is ShuffleNet's channel shuffle of two groups; identity only carries a batch norm or an activation that
    follows no convolution; flatten drops the height and width of a map of one pixel.
    in_channels, out_channels: channels of the input and of the output.
    side: height and width of the input feature map, pixels; `out_side` follows from the stride.
    norm: a batch norm with `norm_eps` follows and runs in place. activation: follows it and runs in place.
    padding: pixels around the input of conv, max_pool and avg_pool. With None the output is the input divided by the
    stride, rounded up: conv and max_pool pad half of the kernel, the last window of avg_pool ends at the edge.
    dilation: of a conv's kernel. extra_padding: more pixels at the bottom and the right of a conv than at the top and
    the left, as TensorFlow pads.

    Raises:
        ValueError: without `padding`, a kernel size with which the output would not be the input divided by the stride.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    side: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: bool = False
    norm_eps: float = 1e-5
    activation: Activation = None
    padding: int | None = None
    dilation: int = 1
    extra_padding: int = 0

    def __post_init__(self) -> None:
        if self.padding is not None:
            return
        window = f"{self.kind} has kernel size {self.kernel_size}"
        if self.kind in ("conv", "max_pool") and self.kernel_size % 2 == 0:
            raise ValueError(f"{window}; half of it is padded, so it must be odd")
        if self.kind == "avg_pool" and self.kernel_size != self.stride:
            raise ValueError(f"{window} and stride {self.stride}; they must be equal")

    @property
    def out_side(self) -> int:
        """Height and width of the output, pixels."""
        if self.kind == "pool":
            return 1
        if self.padding is None:
            return downsampled(self.side, self.stride)
        padded = self.side + 2 * self.padding + self.extra_padding
        return (padded - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1

    @property
    def flops(self) -> int:
        """Multiply-adds of convolutions and linear layers; other operators count as 0, as is usual for FLOPs."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.out_side**2 * self.out_channels * (self.in_channels // self.groups) * self.kernel_size**2

    @property
    def params(self) -> int:
        """Learned parameters: weights, biases, and batch norm's scale and shift."""
        if self.kind not in ("conv", "linear"):
            return 2 * self.norm * self.out_channels
        weights = self.out_channels * (self.in_channels // self.groups) * self.kernel_size**2
        return weights + self.out_channels * (self.bias + 2 * self.norm)


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches over one input, joined: a residual, squeeze-and-excite, the two halves of a ShuffleNet unit.

    join: how the branches' outputs are combined. branches: in the order in which they run; an empty branch passes its
    input on. in_channels, side: channels, and height and width, of the input.
    split: each branch reads an equal share of the channels, in order; otherwise each reads all. activation: after the
    join.
    """

    join: Join
    branches: tuple["Operators", ...]
    in_channels: int
    side: int
    split: bool = False
    activation: Activation = None

    @property
    def share(self) -> int:
        """Channels that each branch reads."""
        return self.in_channels // len(self.branches) if self.split else self.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the joined output."""
        outputs = [branch[-1].out_channels if branch else self.share for branch in self.branches]
        return sum(outputs) if self.join == "concat" else outputs[0]

    @property
    def out_side(self) -> int:
        """Height and width of the joined output, pixels; a branch of one pixel is broadcast."""
        return max(branch[-1].out_side if branch else self.side for branch in self.branches)


Operators = tuple[Operator | Parallel, ...]


def flat(operators: Operators) -> Iterator[Operator]:
    """Every operator, inside branches too, in the order in which they run."""
    for record in operators:
        if isinstance(record, Parallel):
            for branch in record.branches:
                yield from flat(branch)
        else:
            yield record


def total_flops(operators: Operators) -> int:
    """Multiply-adds of all operators."""
    return sum(operator.flops for operator in flat(operators))


def total_params(operators: Operators) -> int:
    """Learned parameters of all operators."""
    return sum(operator.params for operator in flat(operators))


def block_key(operators: Operators) -> str:
    """16 hexadecimal digits that name a tuple of records, equal for equal records: SHA-256 of their fields in order.

    Latency tables are keyed by it, so blocks that run the same operators are measured once.
    """
    return hashlib.sha256(repr([_key_fields(record) for record in operators]).encode()).hexdigest()[:16]


def _key_fields(record: Operator | Parallel) -> tuple[Any, ...]:
    """A record's fields. The last three are younger than stored latency tables, so they count only if they are set."""
    if isinstance(record, Parallel):
        branches = tuple(tuple(map(_key_fields, branch)) for branch in record.branches)
        return (record.join, branches, *astuple(replace(record, branches=()))[2:])
    fields = astuple(record)
    return fields[:-3] if fields[-3:] == (None, 1, 0) else fields


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the network that depends on few genes: the stem, a block, the head.

    genes: the indices of these genes in the genome. operators: a function from the values of these genes, in the same
    order, to the piece's records; it returns () where the values say that the piece is dropped.
    paths: the genes whose every choice has weights of its own. The choices of the other genes share weights: a narrower
    choice takes the first channels of a wider one.
    """

    name: str
    genes: tuple[int, ...]
    operators: Callable[..., Operators]
    paths: tuple[int, ...] = ()

    def records(self, values: Sequence[Any]) -> Operators:
        """The piece's records for one value per gene of the genome; () where the piece is dropped."""
        return self.operators(*(values[gene] for gene in self.genes))
