"""Inherited accuracy beside training alone: `python -m benchmarks.cifar10 BUNDLE -o FOLDER [--only largest]`.

Trains the largest, a middle (of median multiply-adds among random ones) and the smallest subnet of a bundle from
scratch, by the configuration that the bundle records, at their own resolution throughout and each for as many epochs as
that has in its first phase, unless `--epochs` says otherwise; any bundle of `supple train` will do. Both kinds of
network are recalibrated with the bundle's calibration images and scored on the test split. Minutes are those of
training steps. Goes on where it was cut short, in the same folder, and writes FOLDER/report.json for the subnets asked
for; those already trained are only scored again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from evolution.costs import CostTables
from service.bundles.config import load_data, recorded_config
from service.cli.display import Bar
from supernet.bundle import Bundle
from supernet.costs.architecture import of_architecture
from supernet.data import Dataset
from supernet.evaluation.evaluate import Evaluator, batches, evaluate
from supernet.files import write_atomically
from supernet.networks.supernet import Supernet
from supernet.space import Architecture, SearchSpace
from supernet.training import distributed
from supernet.training.checkpoints import train_resumably
from supernet.training.standalone import random_network, stand_alone

CLOSE = 0.015  # inherited accuracy may be so far below that of training alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--only", choices=("largest", "middle", "smallest"))
    parser.add_argument("--epochs", type=int, help="of training alone")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    report = compared(bundle, options.output, options.data_root, options.only, options.epochs)
    write_atomically(options.output / "report.json", json.dumps(report, indent=1).encode())
    show(report)


def compared(
    bundle: Bundle, folder: Path, data_root: Path, only: str | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Accuracies on the test split, inherited and alone, with the minutes that training took, as JSON."""
    config = recorded_config(bundle)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = distributed.choose_device(config.device)
    dataset, space = load_data(config, data_root)
    supernet, epochs = bundle.supernet().to(device), epochs or config.schedule.phases[0].epochs
    rows = {}
    with Bar(Console(stderr=True)) as bar:
        for name, arch in chosen(space).items():
            if only not in (None, name):
                continue
            seed = config.schedule.seed
            state = stand_alone(space, arch, random_network(space, arch, seed), config.schedule, epochs, seed, device)
            for done in train_resumably(state, dataset, folder / name, workers=config.dataset.workers):
                remark = f"loss {done.loss:.2f}, {done.images_per_second:.0f} img/s"
                bar(f"{name} alone", done.step, done.total_steps, remark)
            inherited, alone = (accuracy(bundle, network, arch, dataset) for network in (supernet, state.averaged()))
            rows[name] = {
                "arch": arch.to_json(),
                "flops": of_architecture(space, arch)["flops"],
                "inherited": inherited,
                "alone": alone,
                "difference": inherited - alone,
                "minutes": sum(epoch["seconds"] for epoch in state.curves) / 60,
            }
    return {
        "bundle": bundle.hash,
        "epochs_alone": epochs,
        "supernet_minutes": sum(phase["seconds"] for phase in bundle.report["phases"]) / 60,
        "subnets": rows,
    }


def chosen(space: SearchSpace) -> dict[str, Architecture]:
    """The subnets to compare, by name."""
    genomes = space.sample(np.random.default_rng(0), 1_001)
    middle = space.decode(genomes[np.argsort(CostTables(space).flops(genomes))[500]])
    return {"largest": space.largest(), "middle": middle, "smallest": space.smallest()}


def accuracy(bundle: Bundle, supernet: Supernet, arch: Architecture, dataset: Dataset) -> float:
    """On the test split, after recalibration with the bundle's calibration images."""
    if dataset.test is None:
        raise SystemExit(f"{dataset.name} has no test split; give it one, test/CLASS/*")
    network = Evaluator(supernet, bundle.normalization, bundle.calibration(), None).subnet(arch)
    device = next(network.parameters()).device
    return float(evaluate(network, batches(dataset.test, arch.resolution, bundle.normalization, device)).accuracy)


def show(report: dict[str, Any]) -> None:
    table = Table("subnet", "multiply-adds", "inherited", "alone", "difference", "minutes alone")
    for name, row in report["subnets"].items():
        shown = (f"{row['flops']:,}", f"{row['inherited']:.2%}", f"{row['alone']:.2%}")
        table.add_row(name, *shown, f"{100 * row['difference']:+.2f} points", f"{row['minutes']:.1f}")
    console = Console()
    console.print(table)
    far = [name for name, row in report["subnets"].items() if row["difference"] < -CLOSE]
    console.print(f"supernet: {report['supernet_minutes']:.1f} minutes; alone: {report['epochs_alone']} epochs each")
    console.print(f"inherited more than {100 * CLOSE} points below: {', '.join(far) or 'none of these'}")


if __name__ == "__main__":
    main()
