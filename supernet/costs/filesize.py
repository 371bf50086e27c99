"""The size of the ONNX file that `supernet.export.writer` makes, from operator records, without writing it.

It is an upper bound, within 1 % + 4 KiB: numbers of varying length (indices, sizes of fields) count at their longest.
"""

import json
from collections.abc import Sequence

from supernet.operators import FLOAT, Operator, Operators, Parallel
from supernet.space import SearchSpace

INTEGER = 8  # bytes per element of an integer tensor
FIELD = 4  # most bytes before a protocol buffer field: its tag, and its length up to 2 MiB
ATTRIBUTE = 12  # bytes of a node's attribute beside its name and its numbers
NUMBER = 3  # bytes of a number in an attribute: a tag and a value below 16,384
HEADER = 300  # versions, the graph's name, its input and output
METADATA = 1_200  # names, hashes and sentences, without classes, architecture and normalisation
HASH_OR_NUMBER = 32


def part_bytes(name: str, operators: Operators) -> int:
    """Bytes of a part: its nodes, its weights with batch norm folded in, and their names."""
    return _Counter(name).count(operators)


def fixed_bytes(space: SearchSpace, classes: Sequence[str] | None = None) -> int:
    """Bytes that each file of a space holds beside its parts. classes: class names; numbers unless given."""
    class_names = json.dumps(list(classes) if classes is not None else [str(number) for number in range(space.classes)])
    longest = sum(max(len(str(choice)) for choice in gene.choices) + 6 for gene in space.genes)
    extra = sum(len(gene.name) for gene in space.extra_genes)
    return (
        HEADER
        + METADATA
        + len(space.name)
        + len(class_names)
        + longest
        + extra
        + HASH_OR_NUMBER * (3 + 2 * space.in_channels)
    )


class _Counter:
    """Counts the bytes of the nodes that `supernet.export.writer` writes. A name counts wherever it is written."""

    def __init__(self, name: str) -> None:
        self.name = 2 + len(name) + len(".000")  # a tag and a length below 128 come first

    def count(self, operators: Operators) -> int:
        """Bytes of consecutive records."""
        total = 0
        for record in operators:
            if isinstance(record, Parallel):
                total += sum(self.count(branch) for branch in record.branches) + self._parallel(record)
            else:
                total += self._operator(record)
        return total

    def _node(self, kind: str, names: int, numbers: Sequence[tuple[str, int]] = ()) -> int:
        """A node. names: how many inputs and outputs. numbers: per attribute, its name and length."""
        attributes = sum(ATTRIBUTE + len(attribute) + NUMBER * count for attribute, count in numbers)
        return FIELD + FIELD + len(kind) + (names + 1) * self.name + attributes

    def _constant(self, suffix: str, dimensions: int, size: int) -> int:
        """A constant of `size` bytes, and its name where a node reads it."""
        return 4 * FIELD + NUMBER * dimensions + 2 * (self.name + len(suffix)) + size

    def _operator(self, record: Operator) -> int:
        if record.kind == "conv":
            window = [("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2), ("group", 1)]
            total = self._node("Conv", 2, window) + self._weights(record, 4)
        elif record.kind == "linear":
            total = self._node("Flatten", 2) + self._node("Gemm", 2, [("transB", 1)]) + self._weights(record, 2)
        elif record.kind == "pool":
            total = self._node("GlobalAveragePool", 2)
        elif record.kind == "max_pool":
            total = self._node("MaxPool", 2, [("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2)])
        elif record.kind == "avg_pool":
            window = [("kernel_shape", 2), ("strides", 2), ("ceil_mode", 1)]
            if record.padding is not None:
                window += [("pads", 4), ("count_include_pad", 1)]
            total = self._node("AveragePool", 2, window)
        elif record.kind == "identity":
            total = 2 * (self._node("Mul", 2) + self._constant(".scale", 3, FLOAT * record.out_channels)) * record.norm
        elif record.kind == "flatten":
            total = self._node("Flatten", 2)
        else:
            reshapes = self._constant(".shape", 1, 5 * INTEGER) + self._constant(".shape", 1, 4 * INTEGER)
            total = 2 * self._node("Reshape", 2) + self._node("Transpose", 2, [("perm", 5)]) + reshapes
        return total + self._activation(record.activation)

    def _weights(self, record: Operator, dimensions: int) -> int:
        bias = record.norm or record.bias
        learned = record.params - record.out_channels * (record.bias + 2 * record.norm)
        total = self._constant(".weight", dimensions, FLOAT * learned)
        return total + (self._constant(".bias", 1, FLOAT * record.out_channels) if bias else 0)

    def _parallel(self, record: Parallel) -> int:
        branches = len(record.branches)
        total = 0
        if record.split:
            total += self._node("Split", 1 + branches, [("axis", 1), ("num_outputs", 1)]) + len(".0") * branches
        if record.join == "concat":
            total += self._node("Concat", 1 + branches, [("axis", 1)])
        else:
            total += (branches - 1) * self._node("Mul", 3)
        return total + self._activation(record.activation)

    def _activation(self, activation: str | None) -> int:
        kinds = {
            "relu": ["Relu"],
            "relu6": ["Clip"],
            "h_swish": ["HardSwish"],
            "h_sigmoid": ["HardSigmoid"],
            "sigmoid": ["Sigmoid"],
            "silu": ["Sigmoid", "Mul"],
            "gelu": ["Div", "Erf", "Add", "Mul", "Mul"],
        }
        if activation is None:
            return 0
        bounds = {"relu6": 2 * (FIELD + 1), "h_sigmoid": 2 * (ATTRIBUTE + FLOAT) + len("alphabeta")}
        operands = {"Mul": 3, "Div": 3, "Add": 3}
        return sum(self._node(kind, operands.get(kind, 2)) for kind in kinds[activation]) + bounds.get(activation, 0)
