"""Inherited accuracy on the digits test split, over split seeds: `python -m benchmarks.digits [--seeds 3]`.

Trains configs/digits.yaml from scratch for each seed, which also makes the splits, and scores the largest and the
smallest subnet, extracted and recalibrated, on the test images, which nothing else has seen.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from service.bundles.config import read_config
from supernet.data import Images, load
from supernet.evaluation.evaluate import Evaluator
from supernet.families import preset
from supernet.training.loop import TrainingState, train

CONFIG = Path(__file__).parents[1] / "configs" / "digits.yaml"
REQUIRED = {"largest": 0.985, "smallest": 0.96}


def inherited_accuracy(seed: int) -> dict[str, float]:
    """Test accuracy of the corner subnets of one supernet."""
    config = read_config(CONFIG)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    space = preset(config.space)
    dataset = load("digits", max(space.resolutions), seed=seed, holdout=config.dataset.holdout, root=Path())
    state = TrainingState.fresh(space, replace(config.schedule, seed=seed))
    for _ in train(state, dataset):
        pass
    assert isinstance(dataset.test, Images)
    calibration = dataset.train[: config.evaluation.calibration_images]
    evaluator = Evaluator(state.supernet, dataset.normalization, calibration, dataset.test)
    result = {}
    for name, arch in (("largest", space.largest()), ("smallest", space.smallest())):
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        result[name] = scored.accuracy
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results = []
    for seed in range(options.seeds):
        started = time.perf_counter()
        results.append(inherited_accuracy(seed))
        scores = "  ".join(f"{name} {accuracy:.2%}" for name, accuracy in results[-1].items())
        print(f"seed {seed}: {scores}  ({time.perf_counter() - started:.0f} s)", flush=True)
    for name, required in REQUIRED.items():
        mean = statistics.mean(result[name] for result in results)
        print(f"{name}: mean {mean:.2%}, required {required:.1%}: {'yes' if mean >= required else 'NO'}")


if __name__ == "__main__":
    main()
