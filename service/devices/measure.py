"""Measuring this machine: make the plan, run the probe, write the result."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evolution.predictors.latency_design import choose_networks
from service.devices import probe
from supernet.export.probe_plan import network_plan, probe_plan, write_plan
from supernet.files import write_atomically
from supernet.space import SearchSpace

CHECKS = 24  # networks of a second run, which tell the error of a latency model


def make_plan(
    space: SearchSpace,
    output: Path,
    *,
    networks: int | None = None,
    networks_per_resolution: int = 12,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the plan of a space: every distinct block and some whole networks, or whole networks alone.

    networks: that many whole networks alone, the most informative first. networks_per_resolution: beside blocks.
    seed: draws the networks to choose from. progress: called with the models written and the number of all.

    Raises:
        ValueError: the space has fewer networks. OSError: the plan cannot be written.
    """
    if networks is None:
        models = probe_plan(space, np.random.default_rng(seed), networks_per_resolution, CHECKS)
    else:
        models = network_plan(space, choose_networks(space, networks, seed))
    write_plan(output, space, models, progress)


def measure_machine(
    space: SearchSpace,
    output: Path,
    *,
    runtime: probe.Runtime,
    batch_size: int = 1,
    seconds: float | None = None,
    networks: int | None = None,
    memory: bool = False,
    networks_per_resolution: int = 12,
    seed: int = 0,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Measure the plan of a space on this machine; write the result to `output`.

    A measurement that is cut off continues from `output`.journal when it is started again with the same arguments.

    networks, networks_per_resolution, seed: as `make_plan` takes them. memory: measure peak memory, too.
    progress: called with the stage, the steps done and the total.

    Raises:
        ProbeError (a ValueError): what `probe.run_plan` raises. OSError: `output` cannot be written; `check_output`
            tells before measuring.
    """
    journal = output.with_name(f"{output.name}.journal") if output.is_file() or not output.exists() else None
    with tempfile.TemporaryDirectory(prefix="supple-plan-") as folder:
        plan = Path(folder) / "plan.zip"
        make_plan(
            space,
            plan,
            networks=networks,
            networks_per_resolution=networks_per_resolution,
            seed=seed,
            progress=lambda done, total: progress("write networks", done, total),
        )
        measured = probe.run_plan(
            plan,
            runtime=runtime,
            batch_size=batch_size,
            seconds=seconds,
            memory=memory,
            progress=lambda done, total: progress("measure this machine", done, total),
            journal=journal,
        )
    write_atomically(output, json.dumps(measured, indent=1, allow_nan=False).encode())
    if journal:
        journal.unlink()
    return measured
