"""The ranking report over training seeds: `python -m benchmarks.ranking [--seeds 3] [--nets 20] -o FOLDER`.

For each seed: two supernets of configs/digits.yaml or another configuration, sampled uniformly and strictly fairly, and
every subnet trained alone twice. Goes on where it was cut short, in the same folder.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from service.bundles.config import read_config
from service.bundles.rank import rank_config
from service.cli.display import Bar, show_ranking

CONFIG = Path(__file__).parents[1] / "configs" / "digits.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", type=int, default=20)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    config = read_config(options.config)
    for seed in range(options.seeds):
        seeded = replace(config, schedule=replace(config.schedule, seed=seed))
        with Bar(Console(stderr=True)) as bar:
            report = rank_config(
                seeded,
                options.output / f"seed{seed}",
                nets=options.nets,
                epochs=options.epochs,
                seed=seed,
                data_root=options.data_root,
                progress=bar,
            )
        print(f"seed {seed}")
        show_ranking(report, Console())


if __name__ == "__main__":
    main()
