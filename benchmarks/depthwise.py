"""Depthwise convolutions in training beside torch's own: `python -m benchmarks.depthwise [--precision bf16]`.

Forward and backward of the depthwise layers of `mbv3-cifar`'s largest subnet, with kernels whose gradients are ours, at
batch 128, ours and torch's in turns. The ratio is the median over rounds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.depthwise import WIDE, depthwise_conv2d
from supernet.families import preset
from supernet.operators import flat
from supernet.train import keep_freed_memory

BATCH = 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARM_UP = 3  # rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    space = preset("mbv3-cifar")
    convs = [record for _, records in space.part_operators(space.largest()) for record in flat(records)]
    wide = [record for record in convs if record.kind == "conv" and record.groups > 1 and record.kernel in WIDE]
    for channels, side, stride in dict.fromkeys((conv.in_channels, conv.side, conv.stride) for conv in wide):
        for kernel in (3, *WIDE) if options.precision == "bf16" and stride > 1 else WIDE:
            ours, theirs = compared(channels, side, stride, kernel, DTYPES[options.precision], options.rounds)
            ratio = median(second / first for first, second in zip(ours, theirs, strict=True))
            print(f"{channels} channels, side {side}, stride {stride}, kernel {kernel}: ", end="")
            print(f"{1e3 * median(ours):.2f} ms, torch's own {ratio:.2f} times as long", flush=True)


def compared(
    channels: int, side: int, stride: int, kernel: int, dtype: torch.dtype, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of each round, ours and torch's."""
    x = torch.randn(BATCH, channels, side, side, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, dtype=dtype, requires_grad=True)

    def plain(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=channels)

    def seconds(convolve: Callable[[Tensor, Tensor, int], Tensor]) -> float:
        started = time.perf_counter()
        y = convolve(x, weight, stride)
        torch.autograd.grad(y, (x, weight), y)
        return time.perf_counter() - started

    times = [(seconds(depthwise_conv2d), seconds(plain)) for _ in range(WARM_UP + rounds)][WARM_UP:]
    return [first for first, _ in times], [second for _, second in times]


if __name__ == "__main__":
    main()
