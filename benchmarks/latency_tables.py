"""Latency models from whole networks that others measured: `python -m benchmarks.latency_tables FILE`.

FILE: an npz with `genomes` (5,000 subnets of Once-for-All's MobileNetV3 space at 25 resolutions) and the latency of
each in six settings of GPU and batch size, ms, as HayeonLee/HELP (data/ofa) publishes it.

1. Whole networks alone: the most informative 20, 50 and 200 of a random half, a model fitted on them, its error on
   all networks of the other half. Beside it the same number of random networks, ridge regression on one-hot genes with
   the penalty of lowest leave-one-out error, on the same networks and on 4,000 random ones, and a line in FLOPs.
2. A handful: 10 networks and the latency models of the other five settings, each fitted on 1,000 networks of the first
   half.

The settings of the regression were chosen on titan_xp_1, v100_64 and v100_32 with the splits of seeds 0 to 2. Here are
all six, on the splits of seeds 10 to 12.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.features import one_hot
from evolution.predictors.latency_design import central_networks, choose_networks
from evolution.predictors.latency_fitting import LatencyFit
from evolution.predictors.validation import spearman_rho
from supernet.families import preset
from supernet.space import Genomes

SPACE = "mbv3-imagenet-w1.0-r25"
SETTINGS = ("titan_xp_1", "v100_1", "v100_32", "titan_xp_32", "v100_64", "titan_xp_64")
SIZES = (20, 50, 200)
SEEDS = range(10, 13)
FEW, KNOWN, MANY = 10, 1_000, 4_000

Rows = NDArray[np.intp]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    with np.load(parser.parse_args().file, allow_pickle=False) as arrays:
        genomes: Genomes = arrays["genomes"]
        measured = {setting: arrays[setting].astype(np.float64) for setting in SETTINGS}
    tables = CostTables(preset(SPACE))
    with threadpool_limits(1, "blas"):
        whole_networks_alone(tables, genomes, measured)
        handful(tables, genomes, measured)


def halves(count: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to choose from and rows to report on."""
    first, second = np.split(np.random.default_rng(seed).permutation(count), [count // 2])
    return first, second


def chosen_rows(tables: CostTables, genomes: Genomes, rows: Rows, count: int, seed: int) -> Rows:
    """The most informative of these rows."""
    number = {genomes[row].tobytes(): row for row in rows}
    pool = central_networks(tables.space, genomes[rows])
    return np.array([number[g.tobytes()] for g in choose_networks(tables.space, count, seed, pool=pool)])


def fitted(tables: CostTables, genomes: Genomes, ms: Floats, rows: Rows, known: Sequence[Floats] = ()) -> Floats:
    """(5000,) predictions of a latency model fitted on these rows."""
    times = LatencyFit(tables, None, genomes[rows], ms[rows], known).fit(np.arange(len(rows)))
    predicted: Floats = times.values[tables.index(genomes)].sum(1) + times.offset[genomes[:, 0]]
    return predicted


def ridge(tables: CostTables, genomes: Genomes, ms: Floats, rows: Rows) -> Floats:
    """(5000,) predictions of a ridge regression on one-hot genes."""
    from sklearn.linear_model import RidgeCV

    features = one_hot(tables.space, genomes).astype(np.float64)
    predicted: Floats = RidgeCV(np.logspace(-3, 4, 20)).fit(features[rows], ms[rows]).predict(features)
    return predicted


def flops_line(tables: CostTables, genomes: Genomes, ms: Floats, rows: Rows) -> Floats:
    """(5000,) predictions of a line in FLOPs of lowest relative squared error."""
    columns = np.stack([tables.flops(genomes) / 1e6, np.ones(len(genomes))], 1)
    weights = np.linalg.lstsq(columns[rows] / ms[rows, None], np.ones(len(rows)), rcond=None)[0]
    predicted: Floats = columns @ weights
    return predicted


def error(predicted: Floats, ms: Floats, rows: Rows) -> float:
    return 100 * float(np.abs(predicted[rows] / ms[rows] - 1).mean())


def rank(predicted: Floats, ms: Floats, rows: Rows) -> float:
    return spearman_rho(predicted[rows], ms[rows]) or 0.0


def whole_networks_alone(tables: CostTables, genomes: Genomes, measured: Mapping[str, Floats]) -> None:
    print("whole networks alone: mean absolute percentage error on 2,500 others, mean (and worst) of the splits")
    print("setting      networks  chosen         random         ridge          FLOPs line     ridge with 4,000")
    splits = {seed: halves(len(genomes), seed) for seed in SEEDS}
    designs = {
        (size, seed): chosen_rows(tables, genomes, splits[seed][0], size, seed) for size in SIZES for seed in SEEDS
    }
    for setting, ms in measured.items():
        many = [np.random.default_rng(seed).permutation(len(ms)) for seed in SEEDS]
        best = [error(ridge(tables, genomes, ms, p[:MANY]), ms, p[MANY:]) for p in many]
        for size in SIZES:
            columns: list[list[float]] = [[], [], [], []]
            for seed, (first, second) in splits.items():
                predictions = (
                    fitted(tables, genomes, ms, designs[size, seed]),
                    fitted(tables, genomes, ms, first[:size]),
                    ridge(tables, genomes, ms, first[:size]),
                    flops_line(tables, genomes, ms, first[:size]),
                )
                for column, predicted in zip(columns, predictions, strict=True):
                    column.append(error(predicted, ms, second))
            cells = "  ".join(f"{np.mean(c):5.2f} ({max(c):5.2f})" for c in [*columns, best])
            print(f"{setting:11}  {size:8}  {cells}", flush=True)


def handful(tables: CostTables, genomes: Genomes, measured: Mapping[str, Floats]) -> None:
    print(f"\n{FEW} networks and the other five settings: Spearman's rho on the others, mean (and worst) of splits")
    print("setting      with the others  alone          FLOPs          MAPE with   MAPE alone")
    rhos: dict[str, list[list[float]]] = {setting: [[], [], [], [], []] for setting in measured}
    for seed in SEEDS:
        first, second = halves(len(genomes), seed)
        chosen = chosen_rows(tables, genomes, first, FEW, seed)
        known = {
            setting: LatencyFit(tables, None, genomes[first[:KNOWN]], ms[first[:KNOWN]]).fit(np.arange(KNOWN)).values
            for setting, ms in measured.items()
        }
        for setting, ms in measured.items():
            others = [values for name, values in known.items() if name != setting]
            both = fitted(tables, genomes, ms, chosen, others), fitted(tables, genomes, ms, chosen)
            figures = [rank(predicted, ms, second) for predicted in (*both, tables.flops(genomes))]
            for column, figure in zip(rhos[setting], [*figures, *(error(p, ms, second) for p in both)], strict=True):
                column.append(figure)
    for setting, columns in rhos.items():
        ranks = "  ".join(f"{np.mean(c):.3f} ({min(c):.3f})" for c in columns[:3])
        errors = "  ".join(f"{np.mean(c):5.2f} ({max(c):5.2f})" for c in columns[3:])
        print(f"{setting:11}  {ranks}  {errors}", flush=True)


if __name__ == "__main__":
    main()
