"""Layers in training beside torch's own: `python -m benchmarks.layers [--precision bf16]`.

Forward and backward of those layers of `mbv3-cifar`'s largest subnet whose gradients are ours, depthwise convolutions
with other kernels too, at batch 128, ours and torch's in turns. The ratio is the median over rounds.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.depthwise import WIDE, depthwise_conv2d
from supernet.families import preset
from supernet.operators import Operator, flat
from supernet.pointwise import PIXELS, global_average, pointwise_conv2d
from supernet.train import keep_freed_memory

BATCH = 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARM_UP = 3  # rounds

Layer = Callable[..., Tensor]
Case = tuple[str, Layer, Layer, tuple[int, ...], tuple[int, ...] | None]  # name, ours, torch's, shapes of x and weight


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
    found = (case for record in records for case in cases(record, options.precision == "bf16"))
    for name, (_, ours, theirs, *shapes) in {case[0]: case for case in found}.items():
        pairs = [
            (seconds(ours, DTYPES[options.precision], *shapes), seconds(theirs, DTYPES[options.precision], *shapes))
            for _ in range(WARM_UP + options.rounds)
        ][WARM_UP:]
        ratio = median(second / first for first, second in pairs)
        milliseconds = 1e3 * median(first for first, _ in pairs)
        print(f"{name}: {milliseconds:.2f} ms, torch's own {ratio:.2f} times as long", flush=True)


def cases(record: Operator, bfloat16: bool) -> Iterator[Case]:
    """What of a record is computed our way."""
    channels, outputs, side, stride = record.in_channels, record.out_channels, record.side, record.stride
    images = (BATCH, channels, side, side)
    if record.kind == "pool":
        yield (
            f"mean, {channels} channels, side {side}",
            global_average,
            partial(F.adaptive_avg_pool2d, output_size=1),
            images,
            None,
        )
    elif record.kind == "conv" and record.kernel == 1 and side**2 <= PIXELS:
        name = f"pointwise, {channels} to {outputs} channels, side {side}"
        yield name, pointwise_conv2d, F.conv2d, images, (outputs, channels, 1, 1)
    elif record.kind == "conv" and record.groups > 1 and record.kernel in WIDE:
        for kernel in (3, *WIDE) if bfloat16 and stride > 1 else WIDE:
            yield (
                f"depthwise, {channels} channels, side {side}, stride {stride}, kernel {kernel}",
                partial(depthwise_conv2d, stride=stride),
                partial(F.conv2d, stride=stride, padding=kernel // 2, groups=channels),
                images,
                (channels, 1, kernel, kernel),
            )


def seconds(layer: Layer, dtype: torch.dtype, images: tuple[int, ...], weights: tuple[int, ...] | None) -> float:
    """Of one forward and backward pass through a layer and the activation before it, as networks have one."""
    x = torch.randn(images, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = () if weights is None else (torch.randn(weights, dtype=dtype, requires_grad=True),)
    started = time.perf_counter()
    y = layer(F.hardswish(x), *weight)
    torch.autograd.grad(y, (x, *weight), torch.ones_like(y))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
