"""Fine-tuning subnets: which learning rate, with or without a teacher, and against training from scratch.

`python -m benchmarks.finetune RUN/bundle` fine-tunes the smallest subnet and one of about half the largest's FLOPs, for
each learning rate (as a share of the recipe's last phase's) and weight of distillation, with several seeds. Accuracies
are on the bundle's held-out images, perturbed as for verification. It writes nothing into the bundle.
"""

import json
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import torch
import typer

from evolution.costs import CostTables
from service.bundles.config import recorded_config
from service.bundles.finetune import Plan, fine_tune, verified_accuracies
from service.bundles.pairs import stratified
from supernet.bundle import Bundle
from supernet.space import Architecture


def chosen(bundle: Bundle) -> dict[str, Architecture]:
    """The smallest subnet, and the random one whose FLOPs are nearest to half of the largest's."""
    space = bundle.space
    genomes = stratified(space, np.random.default_rng(0), 1_000)
    flops = CostTables(space).flops(genomes)
    return {"smallest": space.smallest(), "half": space.decode(genomes[np.abs(flops - flops.max() / 2).argmin()])}


def run(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    epochs: Annotated[int, typer.Option()] = 10,
    seeds: Annotated[int, typer.Option()] = 3,
    rates: Annotated[str, typer.Option(help="Shares of the last phase's learning rate.")] = "0.1,0.3,1",
    data_root: Annotated[Path, typer.Option()] = Path("data"),
) -> None:
    """Print one line for each setting: mean accuracy before and after, and each seed's."""
    bundle = Bundle.open(path)
    config = recorded_config(bundle)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    base = config.schedule.phases[-1].learning_rate
    for name, arch in chosen(bundle).items():
        plans = [
            (f"{share:g} x, distillation {weight:g}", Plan(epochs, learning_rate=share * base, distillation=weight))
            for share, weight in product(map(float, rates.split(",")), (0.0, 1.0))
        ]
        for label, plan in [*plans, ("from scratch", Plan(epochs, from_scratch=True))]:
            scores = []
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder:
                    seeded = Plan(epochs, plan.from_scratch, plan.learning_rate, plan.distillation, seed)
                    scores.append(
                        verified_accuracies(fine_tune(bundle, arch, seeded, Path(folder), data_root=data_root))
                    )
            row = {
                "subnet": name,
                "setting": label,
                "epochs": epochs,
                "inherited": round(scores[0][0], 4),
                "after": round(mean(after for _, after in scores), 4),
                "seeds": [round(after, 4) for _, after in scores],
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    typer.run(run)
