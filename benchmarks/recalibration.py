"""What batch-norm recalibration is worth: `python -m benchmarks.recalibration BUNDLE [--subnets 20]`.

Accuracy on the bundle's held-out images, as they are, of subnets with the supernet's own statistics and with those of
more and more training images: the mean over subnets, and over the draws of which images those are.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from service.bundles.config import load_data, recorded_config
from service.bundles.pairs import stratified
from supernet.bundle import Bundle
from supernet.evaluation.evaluate import Evaluator

DRAWS = 3
FIRST = 16  # calibration images; then twice as many, and so on
ENOUGH = 0.001  # of accuracy: improvement that no longer counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--subnets", type=int, default=20)
    parser.add_argument("--images", type=int, default=4_096, help="at most so many training images")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = Bundle.open(options.bundle)
    images = load_data(recorded_config(bundle), options.data_root)[0].train[: options.images]
    holdout, supernet = bundle.holdout(), bundle.supernet()
    assert holdout is not None  # as in every bundle of `supple train`
    genomes = stratified(bundle.space, np.random.default_rng(0), options.subnets)
    archs = [bundle.space.decode(genome) for genome in genomes]

    def mean_accuracy(count: int, draw: int) -> float:
        chosen = torch.from_numpy(np.random.default_rng([draw, count]).permutation(len(images))[:count])
        evaluator = Evaluator(supernet, bundle.normalization, images[chosen], holdout)
        found = (
            evaluator.evaluate(evaluator.subnet(arch, "recalibrated" if count else "stored"), arch.resolution)
            for arch in archs
        )
        return statistics.mean(scored.accuracy for scored in found if scored is not None)

    print(f"{len(archs)} subnets, {len(holdout)} held-out images, {DRAWS} draws of training images")
    print(f"statistics of the supernet: {mean_accuracy(0, 0):.2%}")
    counts = [FIRST * 2**i for i in range(len(images).bit_length()) if FIRST * 2**i < len(images)] + [len(images)]
    means = []
    for count in counts:
        means.append(statistics.mean(mean_accuracy(count, draw) for draw in range(DRAWS)))
        print(f"{count:>6} images: {means[-1]:.2%}", flush=True)
    enough = next(count for count, mean in zip(counts, means, strict=True) if mean >= max(means) - ENOUGH)
    if enough < len(images):
        print(f"no improvement of {ENOUGH:.1%} beyond {enough} images")
    else:
        print(f"still improving by more than {ENOUGH:.1%} at {enough}, all that were drawn from")


if __name__ == "__main__":
    main()
