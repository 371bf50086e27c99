"""Operator records: what one architecture runs, as plain values.

Every cost of a network (FLOPs, parameters, memory, the blocks that a device probe measures) is read off these records,
and the static networks that `extract` builds are tested against them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Literal

Kind = Literal["conv", "linear", "pool", "multiply", "add"]
Activation = Literal["relu", "relu6", "h_swish", "h_sigmoid"] | None


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least 90 % of it (MobileNet's rule, arXiv:1905.02244)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator on one image.

    kind: conv and linear hold weights; pool is the mean over all positions; multiply and add are elementwise.
    in_channels, out_channels: channels of the main input and of the output.
    side: height and width of the main input, pixels; `out_side` follows from the stride.
    norm: a batch norm follows and runs in place. activation: likewise.
    live: activation elements alive while the operator runs, its inputs, its output and a waiting residual included.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    side: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: bool = False
    activation: Activation = None
    live: int = 0

    @property
    def out_side(self) -> int:
        """Height and width of the output, pixels. Convolutions pad with kernel // 2."""
        return 1 if self.kind == "pool" else -(-self.side // self.stride)

    @property
    def flops(self) -> int:
        """Multiply-adds, as the field counts FLOPs: convolutions and linear layers alone."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.out_side**2 * self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Learned parameters: weights, biases, and batch norm's scale and shift."""
        if self.kind not in ("conv", "linear"):
            return 0
        weights = self.out_channels * (self.in_channels // self.groups) * self.kernel**2
        return weights + self.out_channels * (self.bias + 2 * self.norm)


Operators = tuple[Operator, ...]


def block_key(operators: Operators) -> str:
    """16 hexadecimal digits that name a tuple of records, equal for equal records: SHA-256 of their fields in order.

    A device's latency table is keyed by it, so blocks that run the same operators are measured once.
    """
    return hashlib.sha256(repr([astuple(record) for record in operators]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the network that depends on few genes: the stem, one block, the head.

    genes: indices of those genes in the genome. operators: from the values of those genes, in the same order, to the
    records of the piece; () when the genes say that the block is dropped.
    """

    name: str
    genes: tuple[int, ...]
    operators: Callable[..., Operators]
