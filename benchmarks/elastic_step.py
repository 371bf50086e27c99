"""A training step of an elastic subnet beside the same subnet as a static module: `python -m benchmarks.elastic_step`.

Forward and backward at batch 16, for the largest, the smallest and five random subnets, in turns in one process, so
that the moods of the machine fall on all alike. The ratio is the median over rounds of elastic / static, each measured
one after the other: processor time on one thread, which neighbours disturb least, and wall time on more. With
`--ofa` and its package installed (`pip install '.[benchmarks]'`), the same is done with Once-for-All's own supernet of
the ImageNet space, in the same rounds; it has no space for small images.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.families import preset
from supernet.space import Architecture, SearchSpace
from supernet.training.loop import TrainingState
from supernet.training.memory import keep_freed_memory
from supernet.training.schedule import Phase, Schedule

BATCH = 16
SPACES = {"mbv3-cifar": 32, "mbv3-imagenet-w1.0": 160}  # and the resolution
RANDOM = 5

Step = Callable[[], None]
Pair = tuple[Step, Step]  # elastic, static


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ofa", action="store_true", help="Once-for-All's own too")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--space", choices=SPACES, help="this space alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    for name in [options.space] if options.space else SPACES:
        measure(preset(name), SPACES[name], options.ofa, options.rounds)


def measure(space: SearchSpace, resolution: int, ofa: bool, rounds: int) -> None:
    """Print a line a subnet, and the median of each supernet."""
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, RANDOM)
    archs = {"largest": space.largest(), "smallest": space.smallest()}
    archs |= {f"random {number}": space.decode(genome) for number, genome in enumerate(genomes, 1)}
    supernet = TrainingState.fresh(space, Schedule((Phase("none", 1, 0.1),), BATCH)).supernet.train()
    images = torch.randn(BATCH, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % space.classes
    theirs = once_for_all() if ofa and space.name == "mbv3-imagenet-w1.0" else None
    ratios: dict[str, list[float]] = {"ours": [], "Once-for-All's": []}
    for name, arch in archs.items():
        arch = arch.at(resolution)
        pairs = {"ours": our_pair(supernet, arch, images, labels)}
        if theirs is not None:
            pairs["Once-for-All's"] = their_pair(theirs, arch, images, labels)
        line = f"{space.name} at {resolution}, {name:8}"
        for who, (ratio, static_ms) in timed(pairs, rounds).items():
            ratios[who].append(ratio)
            line += f"  {who} {ratio:.3f} of {static_ms:.1f} ms"
        print(line, flush=True)
    for who, measured in ratios.items():
        if measured:
            print(f"{space.name}, {who}: median ratio {median(measured):.3f}")


def timed(pairs: dict[str, Pair], rounds: int) -> dict[str, tuple[float, float]]:
    """Per supernet: the median of elastic / static over rounds, and the median time of the static step, ms."""
    taken: dict[str, list[tuple[float, float]]] = {who: [] for who in pairs}
    for number in range(-2, rounds):  # two rounds to warm up
        for who, (elastic, static) in pairs.items():
            if number % 2:  # whoever comes second finds caches filled by the first
                second, first = seconds(static), seconds(elastic)
            else:
                first, second = seconds(elastic), seconds(static)
            if number >= 0:
                taken[who].append((first, second))
    return {
        who: (median(elastic / static for elastic, static in times), 1e3 * median(static for _, static in times))
        for who, times in taken.items()
    }


def seconds(step: Step) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    step()
    return clock() - started


def step_of(network: nn.Module, forward: Callable[[], Tensor], labels: Tensor) -> Step:
    """A pass forward and backward, to fresh gradients."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        F.cross_entropy(forward(), labels).backward()

    return step


def our_pair(supernet: Any, arch: Architecture, images: Tensor, labels: Tensor) -> Pair:
    static = supernet.extract(arch).to(memory_format=torch.channels_last).train()
    elastic = step_of(supernet, lambda: supernet(images, arch), labels)
    return elastic, step_of(static, lambda: static(images), labels)


def once_for_all() -> Any:
    """Its supernet of the ImageNet space at width 1.0, with fresh weights."""
    sys.modules["gdown"] = ModuleType("gdown")  # which it imports to download weights
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    network = OFAMobileNetV3(
        1000, dropout_rate=0, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    return network.to(memory_format=torch.channels_last).train()


def their_pair(supernet: Any, arch: Architecture, images: Tensor, labels: Tensor) -> Pair:
    depths = [len(stage) for stage in arch.stages]
    blocks = [block for stage in arch.stages for block in (*stage, *[stage[-1]] * (4 - len(stage)))]
    choice = {"ks": [int(side) for side, _ in blocks], "e": [ratio for _, ratio in blocks], "d": depths}
    supernet.set_active_subnet(**choice)
    static = supernet.get_active_subnet(preserve_weight=True).to(memory_format=torch.channels_last).train()
    elastic = step_of(supernet, lambda: supernet(images), labels)
    return elastic, step_of(static, lambda: static(images), labels)


if __name__ == "__main__":
    main()
