"""Latency models of this machine's devices: `python -m benchmarks.latency_devices measure FOLDER`, then `report`.

A device is a runtime and a number of threads. `measure` runs the one-file probe three times on each, every time in a
process of its own, and writes the results into FOLDER:

    probed   what `supple probe` measures: every block, some whole networks
    alone    the 200 most informative whole networks alone
    unseen   100 other networks, drawn at random, in a set of their own

`report` fits models on the first two and prints their errors on the unseen networks, on the scale of the device: ratio
to the references times their latency in the run that the model was fitted on. Beside them is a line in FLOPs, fitted on
the same networks, and plain sums of block times. Whole networks alone also borrow from the other measured devices.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from evolution.predictors.latency_design import choose_networks
from evolution.predictors.validation import kendall_tau
from service.costs import cost_tables
from service.devices import probe
from service.devices.measure import make_plan
from service.devices.measurements import fit
from service.devices.schemas import MeasurementsIn
from supernet.export.probe_plan import network_plan, write_plan
from supernet.families import preset
from supernet.space import Architecture, Genomes

SPACE = "mbv3-cifar"
DEVICES = [("onnxruntime", 1), ("onnxruntime", 2), ("openvino", 1), ("openvino", 2)]
SIZES = (10, 20, 50, 100, 200)
UNSEEN, UNSEEN_SEED = 100, 77
RUNS = ("probed", "alone", "unseen")

Networks = tuple[Genomes, Floats]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["measure", "report"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", help="of the devices to measure; all unless given")
    parser.add_argument("--threads", type=int, help="of the devices to measure; all unless given")
    parser.add_argument("--samples", type=int, default=20, help="of each model")
    options = parser.parse_args()
    tables = cost_tables(preset(SPACE))
    if options.what == "report":
        report(tables, options.folder)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    plans = write_plans(tables, options.folder)
    for runtime, threads in DEVICES:
        if options.runtime in (None, runtime) and options.threads in (None, threads):
            measure(plans, options.folder, runtime, threads, options.samples)


def write_plans(tables: CostTables, folder: Path) -> dict[str, Path]:
    space = tables.space
    plans = {run: folder / f"{run}.zip" for run in RUNS}
    if not all(plan.exists() for plan in plans.values()):
        make_plan(space, plans["probed"])
        write_plan(plans["alone"], space, network_plan(space, choose_networks(space, max(SIZES), 0)))
        unseen = np.unique(space.sample(np.random.default_rng(UNSEEN_SEED), UNSEEN), axis=0)
        write_plan(plans["unseen"], space, network_plan(space, unseen))
    return plans


def measure(plans: dict[str, Path], folder: Path, runtime: str, threads: int, samples: int) -> None:
    for run, plan in plans.items():
        output = folder / f"{runtime}-{threads}-{run}.json"
        if output.exists():
            continue
        command = [sys.executable, str(Path(probe.__file__)), str(plan), "-o", str(output), "--runtime", runtime]
        command += ["--threads", str(threads), "--samples", str(samples)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        body = MeasurementsIn.model_validate_json(output.read_bytes())
        print(f"{output.name}: {body.seconds or 0:.0f} s, busy {body.busy or 0:.0%}", flush=True)


def networks(tables: CostTables, body: MeasurementsIn, reference_ms: float | None = None) -> Networks:
    """Genomes, and ms on the scale of another run if its `reference_ms` is given."""
    genomes = np.stack([tables.space.encode(Architecture.from_json(row.architecture)) for row in body.networks])
    return genomes, np.array(
        [row.ms if reference_ms is None else (row.ratio or 0) * reference_ms for row in body.networks]
    )


def report(tables: CostTables, folder: Path) -> None:
    print("device         model                          MAPE    bias   Kendall tau   bias in the second run's own ms")
    files = {(device, run): folder / f"{device[0]}-{device[1]}-{run}.json" for device in DEVICES for run in RUNS}
    bodies = {
        key: MeasurementsIn.model_validate_json(file.read_bytes()) for key, file in files.items() if file.exists()
    }
    measured = [device for device in DEVICES if all((device, run) in bodies for run in RUNS)]
    probed = {device: fit(tables, bodies[device, "probed"]) for device in measured}
    for device in measured:
        known = {f"{name}-{threads}": model for (name, threads), model in probed.items() if (name, threads) != device}
        report_device(tables, device, {run: bodies[device, run] for run in RUNS}, probed[device], known)


def report_device(
    tables: CostTables,
    device: tuple[str, int],
    bodies: dict[str, MeasurementsIn],
    model: LatencyModel,
    known: dict[str, LatencyModel],
) -> None:
    probed, alone, unseen = (bodies[run] for run in RUNS)
    name = f"{device[0]}-{device[1]}"
    genomes, own_ms = networks(tables, unseen)

    def line(what: str, predicted: Floats, body: MeasurementsIn) -> None:
        measured = networks(tables, unseen, body.reference_ms)[1]
        errors = 100 * (predicted / measured - 1)
        tau = kendall_tau(predicted, measured) or 0.0
        own = 100 * float(np.mean(predicted / own_ms - 1))
        print(f"{name:14} {what:28} {np.abs(errors).mean():5.2f} %  {errors.mean():+5.2f} %  {tau:.3f}  {own:+5.2f} %")

    line("blocks and networks", model.predict(genomes), probed)
    card = model.card
    print(f"{'':14} its card: {card['mean_absolute_percentage_error']:.2f} % in the second run, ", end="")
    print(f"{card['first_run']['mean_absolute_percentage_error']:.2f} % within the first")
    line("FLOPs line, same networks", flops_line(tables, networks(tables, probed), genomes), probed)
    line("plain block sums", tables.block_values(probed.blocks)[tables.index(genomes)].sum(1), probed)
    chosen = networks(tables, alone)
    for size in SIZES:
        some = chosen[0][:size], chosen[1][:size]
        for what, devices in (("", None), *([(", known devices", known)] if known else [])):
            fitted = LatencyModel.fit(tables, {}, *some, np.random.default_rng(0), known_devices=devices)
            line(f"{size} networks alone{what}", fitted.predict(genomes), alone)
        line(f"FLOPs line, {size} networks", flops_line(tables, some, genomes), alone)


def flops_line(tables: CostTables, known: Networks, genomes: Genomes) -> Floats:
    """(N,) predictions of a line in FLOPs of lowest relative squared error on known networks."""
    columns = np.stack([tables.flops(known[0]) / 1e6, np.ones(len(known[0]))], 1)
    weights = np.linalg.lstsq(columns / known[1][:, None], np.ones(len(columns)), rcond=None)[0]
    predicted: Floats = tables.flops(genomes) / 1e6 * weights[0] + weights[1]
    return predicted


if __name__ == "__main__":
    main()
