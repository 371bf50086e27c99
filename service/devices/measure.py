"""Measuring this machine: make the plan, run the probe, write the result."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from service.devices import probe
from supernet.export.probe_plan import probe_plan, write_plan
from supernet.files import write_atomically
from supernet.space import SearchSpace


def measure_machine(
    space: SearchSpace,
    output: Path,
    *,
    threads: int = 1,
    batch_size: int = 1,
    seconds: float | None = None,
    networks_per_resolution: int = 12,
    seed: int = 0,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Measure every distinct block of a space and some whole networks with onnxruntime; write the result to `output`.

    seed: draws the whole networks. progress: called with the stage, the steps done and the total.

    Raises:
        OSError: `output` cannot be written; `check_output` tells before measuring.
    """
    with tempfile.TemporaryDirectory(prefix="supple-plan-") as folder:
        plan = Path(folder) / "plan.zip"
        models = probe_plan(space, np.random.default_rng(seed), networks_per_resolution)
        write_plan(plan, space, models, lambda done, total: progress("write networks", done, total))
        measured = probe.run_plan(
            plan,
            threads=threads,
            batch_size=batch_size,
            seconds=seconds,
            progress=lambda done, total: progress("measure this CPU", done, total),
        )
    write_atomically(output, json.dumps(measured, indent=1, allow_nan=False).encode())
    return measured
