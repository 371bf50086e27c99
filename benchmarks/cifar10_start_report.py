"""What benchmarks.cifar10_start trained, side by side: `python -m benchmarks.cifar10_start_report FOLDER`.

Scores subnets on the test split of CIFAR-10, prints a table, and writes report.json and cifar10_start.svg into FOLDER.
Images and processor seconds are all since ImageNet's, or random, weights. Steps that did not run are left out.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cifar10_start import test_accuracy, winner
from service.bundles.config import load_data, recorded_config
from service.cli.plot import scatter_svg
from supernet.bundle import Bundle
from supernet.costs.architecture import of_architecture
from supernet.data import Dataset
from supernet.files import write_atomically

STARTS = {"lite0": "inherited, from ImageNet weights", "random": "inherited, from random weights"}
ALONE = {
    "winner": "winner of the search, fine-tuned",
    "uniform": "all widths scaled, fine-tuned",
    "uniform-after-full": "fine-tuned, all widths scaled, fine-tuned",
    "fastnas": "fine-tuned, pruned by FastNAS, fine-tuned",
    "full": "fine-tuned alone",
}
SHORT = {  # in the plot's legend
    "inherited, from ImageNet weights": "from ImageNet",
    "inherited, from random weights": "from random",
    "winner of the search, fine-tuned": "half, fine-tuned",
    "all widths scaled, fine-tuned": "widths scaled",
    "fine-tuned, all widths scaled, fine-tuned": "scaled later",
    "fine-tuned, pruned by FastNAS, fine-tuned": "FastNAS",
    "fine-tuned alone": "whole network",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    dataset, _ = load_data(recorded_config(Bundle.open(folder / "lite0" / "bundle")), folder)
    rows = [
        row for start in STARTS if (folder / start / "bundle").exists() for row in inherited(folder, start, dataset)
    ]
    rows += [alone_row(folder, name) for name in ALONE if (folder / name / "report.json").exists()]
    write_atomically(folder / "report.json", json.dumps(rows, indent=1).encode())
    table = Table(*("subnet", "weights", "multiply-adds", "parameters", "images seen", "processor s", "top-1"))
    for row in rows:
        counts = (f"{row[name]:,.0f}" for name in ("flops", "params", "images", "seconds"))
        table.add_row(row["subnet"], row["how"], *counts, f"{row['accuracy']:.2%}")
    Console(width=140).print(table)
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        series.setdefault(SHORT.get(row["how"], row["how"]), []).append((row["flops"] / 1e6, row["accuracy"]))
    title = "CIFAR-10 at 64 pixels, top-1 on the test split"
    svg = scatter_svg(title, "multiply-adds, millions", series, "{:.0f}")
    write_atomically(folder / "cifar10_start.svg", svg.encode())


def alone_row(folder: Path, name: str) -> dict[str, Any]:
    """A network trained alone, with all images and seconds since ImageNet's weights."""
    row = json.loads((folder / name / "report.json").read_text())
    if name == "winner":
        before = trained_subnets(folder / "lite0")
    elif name in ("fastnas", "uniform-after-full"):
        before = alone_row(folder, "full")
    else:
        before = {"images": 0, "seconds": 0.0}
    sums = {key: row[key] + before[key] for key in ("images", "seconds")}
    return {"subnet": "largest" if name == "full" else "half", "how": ALONE[name], **row, **sums}


def trained_subnets(folder: Path) -> dict[str, float]:
    """Images that a supernet's training saw, and its processor seconds."""
    bundle, spent = Bundle.open(folder / "bundle"), json.loads((folder / "seconds.json").read_text())
    schedule = recorded_config(bundle).schedule
    steps = bundle.manifest["images"]["train"] // schedule.batch_size * schedule.phases[0].epochs
    return {"images": steps * schedule.batch_size, "seconds": spent["seconds"] / spent["steps"] * steps}


def inherited(folder: Path, start: str, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The largest subnet of a trained bundle, and the winners of searches at a half and at a third of its FLOPs."""
    bundle = Bundle.open(folder / start / "bundle")
    for name, share in {"largest": 1, "half": 2, "third": 3}.items():
        arch = bundle.space.largest() if share == 1 else winner(bundle, share)
        costs = of_architecture(bundle.space, arch)
        yield {
            "subnet": name,
            "how": STARTS[start],
            "arch": arch.to_json(),
            "flops": costs["flops"],
            "params": costs["params"],
            **trained_subnets(folder / start),
            "accuracy": test_accuracy(bundle.evaluator().subnet(arch), dataset),
        }


if __name__ == "__main__":
    main()
