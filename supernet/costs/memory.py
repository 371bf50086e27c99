"""Peak memory of a network's activations, from operator records."""

from dataclasses import dataclass

from supernet.operators import FLOAT, Operator, Operators


def live_elements(operators: Operators) -> list[int]:
    """Elements of the activations alive while each operator, split and join runs, in order, for one image.

    Alive are the operator's input and output and whatever an unfinished branch still waits for. Batch norms and
    activations run in place; joins and splits do not, as in onnxruntime.
    """
    live: list[int] = []

    def ran(kept: set[_Tensor], *used: _Tensor) -> None:
        live.append(sum(tensor.elements for tensor in kept.union(used)))

    def run(records: Operators, x: _Tensor, kept: set[_Tensor]) -> _Tensor:
        for record in records:
            y = _Tensor(record.out_channels * record.out_side**2)
            if isinstance(record, Operator):
                ran(kept, x, y)
            else:
                inputs = [x] * len(record.branches)
                if record.split:
                    inputs = [_Tensor(record.share * record.side**2) for _ in inputs]
                    ran(kept, x, *inputs)
                outputs: list[_Tensor] = []
                for number, branch in enumerate(record.branches):
                    outputs.append(run(branch, inputs[number], kept.union(outputs, inputs[number + 1 :])))
                ran(kept, *outputs, y)
            x = y
        return x

    if operators:
        run(operators, _Tensor(operators[0].in_channels * operators[0].side ** 2), set())
    return live


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """An activation. Compared by identity: what two branches read is one tensor."""

    elements: int


def peak_memory(operators: Operators) -> int:
    """Bytes of single-precision activations alive at once at most, for one image."""
    return FLOAT * max(live_elements(operators), default=0)
