"""Layers in training beside torch's own: `python -m benchmarks.layers [--precision bf16]`.

Forward and backward of those layers of `mbv3-cifar`'s largest subnet whose gradients are ours, depthwise convolutions
with other kernels too, at batch 128, ours and torch's in turns. The ratio is the median over rounds.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.families import preset
from supernet.networks.depthwise import WIDE, depthwise_conv2d
from supernet.networks.pointwise import PIXELS, global_average, pointwise_conv2d
from supernet.operators import Operator, flat
from supernet.training.memory import keep_freed_memory

BATCH = 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARM_UP = 3  # rounds

Layer = Callable[..., Tensor]


class Case(NamedTuple):
    """A layer, ours and torch's, the shapes of what goes into it, and of its weights if it has some."""

    name: str
    ours: Layer
    theirs: Layer
    images: tuple[int, ...]
    weights: tuple[int, ...] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    space = preset("mbv3-cifar")
    records = [record for _, part in space.part_operators(space.largest()) for record in flat(part)]
    dtype, found = DTYPES[options.precision], (case for record in records for case in cases(record, options.precision))
    for case in {case.name: case for case in found}.values():
        pairs = [
            (seconds(case.ours, dtype, case), seconds(case.theirs, dtype, case))
            for _ in range(WARM_UP + options.rounds)
        ][WARM_UP:]
        ratio = median(second / first for first, second in pairs)
        milliseconds = 1e3 * median(first for first, _ in pairs)
        print(f"{case.name}: {milliseconds:.2f} ms, torch's own {ratio:.2f} times as long", flush=True)


def cases(record: Operator, precision: str) -> Iterator[Case]:
    """What of a record is computed our way."""
    channels, outputs, side, stride = record.in_channels, record.out_channels, record.side, record.stride
    images = (BATCH, channels, side, side)
    if record.kind == "pool":
        theirs = partial(F.adaptive_avg_pool2d, output_size=1)
        yield Case(f"mean, {channels} channels, side {side}", global_average, theirs, images)
    elif record.kind == "conv" and record.kernel_size == 1 and side**2 <= PIXELS:
        name = f"pointwise, {channels} to {outputs} channels, side {side}"
        yield Case(name, pointwise_conv2d, F.conv2d, images, (outputs, channels, 1, 1))
    elif record.kind == "conv" and record.groups > 1 and record.kernel_size in WIDE:
        for kernel in (3, *WIDE) if precision == "bf16" and stride > 1 else WIDE:
            name = f"depthwise, {channels} channels, side {side}, stride {stride}, kernel {kernel}"
            theirs = partial(F.conv2d, stride=stride, padding=kernel // 2, groups=channels)
            yield Case(name, partial(depthwise_conv2d, stride=stride), theirs, images, (channels, 1, kernel, kernel))


def seconds(layer: Layer, dtype: torch.dtype, case: Case) -> float:
    """Of one forward and backward pass through a layer and the activation before it, as networks have one."""
    x = torch.randn(case.images, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = [torch.randn(case.weights, dtype=dtype, requires_grad=True)] if case.weights else []
    started = time.perf_counter()
    y = layer(F.hardswish(x), *weights)
    torch.autograd.grad(y, (x, *weights), torch.ones_like(y))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
