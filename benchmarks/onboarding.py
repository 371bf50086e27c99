"""How long does a new device take, and how good is its latency model then? `python -m benchmarks.onboarding`.

From a space alone: the plan is written, the one-file probe runs it in a process of its own, and the latency model is
fitted. Then a second fresh process measures other whole networks, drawn anew, in a set of their own; the model's error
on them is beside that of a straight line in FLOPs through the networks that the model was fitted on, and, with blocks,
of plain sums of block times.

    --networks 20     measure 20 whole networks alone, the most informative ones, and no blocks
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.validation import kendall_tau
from service.costs import cost_tables
from service.devices import probe
from service.devices.measure import make_plan
from service.devices.measurements import fit
from service.devices.schemas import MeasurementsIn
from supernet.export.probe_plan import network_plan, write_plan
from supernet.families import preset
from supernet.space import Architecture, Genomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, help="whole networks alone")
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--seed", type=int, default=99, help="draws the unseen networks")
    options = parser.parse_args()
    space = preset(options.space)
    tables = cost_tables(space)
    runtime = probe.make_runtime(options.runtime, "", options.threads)
    what = f"{options.networks} whole networks alone" if options.networks else "blocks and whole networks"
    print(f"{space.name}, {runtime}, {options.threads} threads, {what}; ", end="")
    print(f"load average {probe.load_average():.1f} on {probe.cores()} cores")
    with tempfile.TemporaryDirectory(prefix="supple-onboarding-") as text:
        folder = Path(text)
        started = time.monotonic()
        make_plan(space, folder / "plan.zip", networks=options.networks)
        planned = time.monotonic()
        body = _probe(folder / "plan.zip", runtime)
        measured = time.monotonic()
        model = fit(tables, body)
        ended = time.monotonic()
        print(f"  plan {planned - started:.1f} s, measuring {measured - planned:.1f} s, ", end="")
        print(f"fitting {ended - measured:.1f} s; together {ended - started:.1f} s; ", end="")
        print(f"other programs held the processor for {body.busy or 0:.0%}")
        card = {key: value for key, value in model.card.items() if isinstance(value, (int, float, str))}
        print(f"  card: {json.dumps(card)}")
        print(f"  card, second run: {json.dumps(model.card.get('second_run'))}")
        unseen = space.sample(np.random.default_rng(options.seed), options.unseen)
        write_plan(folder / "unseen.zip", space, network_plan(space, np.unique(unseen, axis=0)))
        other = _probe(folder / "unseen.zip", runtime)
    assert body.reference_ms is not None
    genomes = _genomes(tables, other)
    truth = np.array([network.ratio or 0.0 for network in other.networks]) * body.reference_ms
    known = _genomes(tables, body), np.array([network.ms for network in body.networks])
    _print_error("latency model", model.predict(genomes), truth)
    _print_error("line in FLOPs", _line(tables.flops(known[0]), known[1], tables.flops(genomes)), truth)
    if body.blocks:
        sums = tables.block_values(body.blocks)
        _print_error("plain block sums", sums[tables.index(genomes)].sum(1), truth)


def _probe(plan: Path, runtime: probe.Runtime) -> MeasurementsIn:
    output = plan.with_suffix(".json")
    command = [sys.executable, probe.__file__, str(plan), "-o", str(output)]
    command += ["--runtime", runtime.name, "--threads", str(runtime.threads)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return MeasurementsIn.model_validate_json(output.read_bytes())


def _genomes(tables: CostTables, body: MeasurementsIn) -> Genomes:
    genomes = [tables.space.encode(Architecture.from_json(network.architecture)) for network in body.networks]
    return np.array(genomes, np.int8)


def _line(flops: Floats, ms: Floats, others: Floats) -> Floats:
    """Latencies by a straight line in FLOPs that fits relative errors."""
    columns = np.stack([flops, np.ones(len(flops))], 1) / ms[:, None]
    slope, intercept = np.linalg.lstsq(columns, np.ones(len(ms)), rcond=None)[0]
    predicted: Floats = slope * others + intercept
    return predicted


def _print_error(name: str, predicted: Floats, measured: Floats) -> None:
    errors: Any = 100 * (predicted / measured - 1)
    print(
        f"  {name:17} on {len(measured)} unseen networks: MAPE {np.abs(errors).mean():5.2f} %, bias "
        f"{errors.mean():+5.2f} %, Kendall tau {kendall_tau(predicted, measured):.3f}"
    )


if __name__ == "__main__":
    main()
