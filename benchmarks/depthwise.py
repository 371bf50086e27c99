"""The gradients of depthwise convolutions beside torch's own: `python -m benchmarks.depthwise [--threads 1]`.

Forward and backward of the depthwise layers of `mbv3-cifar`'s largest subnet with 5 x 5 and 7 x 7 kernels, at batch 128,
ours and torch's in turns. The ratio is the median over rounds.
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.depthwise import depthwise_conv2d
from supernet.families import preset
from supernet.operators import flat
from supernet.train import keep_freed_memory

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in training
    largest = preset("mbv3-cifar").largest()
    records = [record for _, some in preset("mbv3-cifar").part_operators(largest) for record in flat(some)]
    layers = [record for record in records if record.kind == "conv" and record.groups > 1 and record.kernel == 7]
    for channels, side, stride in dict.fromkeys((layer.in_channels, layer.side, layer.stride) for layer in layers):
        for kernel in (5, 7):
            times = [timed(channels, side, stride, kernel, ours=ours) for ours in (True, False)]
            rounds = [(seconds(*times[0]), seconds(*times[1])) for _ in range(options.rounds)][2:]
            ratio, ours_ms = median(b / a for a, b in rounds), 1e3 * median(a for a, _ in rounds)
            print(f"{channels:>4} channels, {side:>2} x {side:<2} stride {stride}, kernel {kernel}: ", end="")
            print(f"{ours_ms:6.2f} ms, torch's own {ratio:.2f} times as long", flush=True)


if __name__ == "__main__":
    main()
