"""Peak memory of a network's activations, from operator records."""

from dataclasses import dataclass

from supernet.operators import FLOAT, Operator, Operators


def live_elements(operators: Operators) -> list[int]:
    """Elements of the tensors in memory while each operator, split and join runs, in order, for one image.

    In memory are the operator's input and output and every tensor that an unfinished branch still needs. Batch norms
    and activations run in place; joins and splits do not, as in onnxruntime.
    """
    live: list[int] = []

    def record_live(waiting: set[_Tensor], *used: _Tensor) -> None:
        live.append(sum(tensor.elements for tensor in waiting.union(used)))

    def run(records: Operators, x: _Tensor, waiting: set[_Tensor]) -> _Tensor:
        for record in records:
            y = _Tensor(record.out_channels * record.out_side**2)
            if isinstance(record, Operator):
                if record.kind in ("identity", "flatten") and x not in waiting:
                    y = x  # in place, unless another branch still needs its input
                record_live(waiting, x, y)
            else:
                inputs = [x] * len(record.branches)
                if record.split:
                    inputs = [_Tensor(record.share * record.side**2) for _ in inputs]
                    record_live(waiting, x, *inputs)
                outputs: list[_Tensor] = []
                for number, branch in enumerate(record.branches):
                    outputs.append(run(branch, inputs[number], waiting.union(outputs, inputs[number + 1 :])))
                record_live(waiting, *outputs, y)
            x = y
        return x

    if operators:
        run(operators, _Tensor(operators[0].in_channels * operators[0].side ** 2), set())
    return live


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A tensor of activations. Compared by identity: two branches that read one tensor hold it once."""

    elements: int


def peak_memory(operators: Operators) -> int:
    """The most bytes of single-precision activations in memory at once, for one image."""
    return FLOAT * max(live_elements(operators), default=0)
