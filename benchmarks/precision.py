"""Training steps in bfloat16 beside float32 on a CPU: `python -m benchmarks.precision [--space mbv3-cifar]`.

Forward, backward and update of the largest, the smallest and a random subnet, by turns in one process: in float32, in
bfloat16, and in bfloat16 with torch's own depthwise gradients. The ratio is the median over rounds.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from supernet.families import preset
from supernet.networks import depthwise
from supernet.space import Architecture
from supernet.training.loop import TrainingState
from supernet.training.memory import keep_freed_memory
from supernet.training.schedule import Phase, Schedule

WARM_UP = 3  # rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    space = preset(options.space)
    state = TrainingState.fresh(space, Schedule((Phase("none", 1, 0.1),), options.batch))
    state.supernet.train()
    state.optimiser = state.fresh_optimiser()
    (random,) = space.sample(np.random.default_rng(0), 1)
    archs = {"largest": space.largest(), "smallest": space.smallest(), "random": space.decode(random)}
    for name, arch in archs.items():
        taken = [
            (seconds(state, arch), seconds(state, arch, bfloat16=True), seconds(state, arch, bfloat16=True, ours=False))
            for _ in range(WARM_UP + options.rounds)
        ][WARM_UP:]
        single, half, theirs = np.array(taken).T
        print(
            f"{name:8} {options.batch / np.median(half):5.0f} images/s in bfloat16; float32 takes "
            f"{np.median(single / half):.2f} times as long, bfloat16 with torch's depthwise gradients "
            f"{np.median(theirs / half):.2f}",
            flush=True,
        )


def seconds(state: TrainingState, arch: Architecture, *, bfloat16: bool = False, ours: bool = True) -> float:
    """How long a step takes. ours: with our depthwise gradients."""
    batch, space, optimiser = state.schedule.batch_size, state.supernet.space, state.optimiser
    assert optimiser is not None
    images = torch.randn(batch, space.in_channels, arch.resolution, arch.resolution)
    images, labels = images.contiguous(memory_format=torch.channels_last), torch.arange(batch) % space.classes
    started = time.perf_counter()
    with patch.object(depthwise, "SUPPORTED", depthwise.SUPPORTED if ours else {}):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = state.supernet(images, arch)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
