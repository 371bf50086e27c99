"""The device probe: measures the networks of a plan with onnxruntime. One file; needs numpy and onnxruntime only.

    python probe.py PLAN.zip -o measurements.json

A machine's speed wanders: by several per cent a minute with frequency and temperature, and within milliseconds when
another program runs beside. The ratio of two networks that run one right after the other hardly does. So every sample
of a model is taken right after one of a small reference network, all models are visited many times over in random
order, and a latency is the median of a model's ratios times the reference's median over the whole session.
"""

import argparse
import json
import math
import os
import platform
import random
import re
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

FORMAT = 1
SAMPLE_MS = 0.5  # a sample repeats a model for about so long
WARM_UP = 5  # untimed runs when a model is loaded
ROUNDS = 40  # samples per model, unless there is less time
FEWEST_ROUNDS = 5  # however little time there is
KEEP_BYTES = 100_000_000  # models stay loaded from round to round when their files are not larger than this together
SAMPLES_PER_LOAD = 5  # samples in a row where they do not, so that loading them anew pays
BUSY = 0.1  # other programs' share of the processor above which to warn


class ProbeError(ValueError):
    """The plan or one of its models cannot be used. The message names it."""


@dataclass(frozen=True)
class Model:
    """Something to measure: a name, how to get its ONNX file, and the file's size in bytes; 0: small."""

    name: str
    load: Callable[[], bytes]
    size: int = 0


@dataclass(frozen=True)
class Measurement:
    """One model's latency, measured in turns with the reference.

    ratio: median over the samples of model / reference. spread: median |deviation| of that ratio, as a fraction of it.
    wall_ms, reference_ms: plain medians of both over the same samples, drift included.
    """

    name: str
    ratio: float
    spread: float
    wall_ms: float
    reference_ms: float
    samples: int


def measure(
    models: Sequence[Model],
    reference: bytes,
    *,
    threads: int = 1,
    batch_size: int = 1,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measurement]:
    """Measure models in turns with a reference network, 40 samples each. All of it runs in this thread.

    seconds: stop after about so long, though not before each model has 5 samples.
    progress: called with how many samples are done, and of how many; fewer samples in less time count for more.

    Raises:
        ProbeError: a model that onnxruntime does not load or run, by name; settings out of range.
    """
    if threads < 1 or batch_size < 1:
        raise ProbeError(f"threads is {threads}, batch size {batch_size}; both must be at least 1")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ProbeError(f"seconds is {seconds}; a positive number is needed")
    keep = sum(model.size for model in models) <= KEEP_BYTES
    per_visit = 1 if keep else SAMPLES_PER_LOAD
    visits = math.ceil(ROUNDS / per_visit)
    baseline = _Runner("the reference network", reference, threads, batch_size)
    runners: dict[int, _Runner] = {}
    total = visits * per_visit * len(models)
    pairs: list[list[tuple[float, float]]] = [[] for _ in models]  # ms of the model and of the reference before it
    shuffle, started = random.Random(0), time.monotonic()
    for visit in range(1, visits + 1):
        for done, i in enumerate(shuffle.sample(range(len(models)), len(models)), 1):
            runner = runners.get(i) or _Runner(models[i].name, models[i].load(), threads, batch_size)
            if keep:
                runners[i] = runner
            for _ in range(per_visit):
                reference_ms = baseline.sample()
                pairs[i].append((runner.sample(), reference_ms))
            if progress:
                by_time = (time.monotonic() - started) / seconds if seconds else 0.0
                progress(min(total, max(int(by_time * total), ((visit - 1) * len(models) + done) * per_visit)), total)
        next_end = (time.monotonic() - started) * (visit + 1) / visit
        if seconds is not None and next_end > seconds and visit * per_visit >= FEWEST_ROUNDS:
            break
    if progress:
        progress(total, total)
    return [_summary(model.name, times) for model, times in zip(models, pairs, strict=True)]


def _summary(name: str, pairs: Sequence[tuple[float, float]]) -> Measurement:
    ratios = [model / reference for model, reference in pairs]
    ratio = median(ratios)
    spread = median(abs(r - ratio) for r in ratios) / ratio
    wall_ms, reference_ms = (median(times) for times in zip(*pairs, strict=True))
    return Measurement(name, ratio, spread, wall_ms, reference_ms, len(pairs))


def in_ms(measurements: Sequence[Measurement], reference_ms: float | None = None) -> dict[str, float]:
    """Latency of each model, ms, freed of drift: its ratio times one latency of the reference for all of them.

    reference_ms: the device's, when these are to be compared with what was measured on it earlier; None: the median
    over these measurements.
    """
    if reference_ms is None:
        reference_ms = median(measurement.reference_ms for measurement in measurements)
    return {measurement.name: measurement.ratio * reference_ms for measurement in measurements}


class _Runner:
    """One loaded model with its input and output bound, so that a run copies nothing."""

    def __init__(self, name: str, data: bytes, threads: int, batch_size: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        options.add_session_config_entry("session.force_spinning_stop", "1")  # or idle models' threads hold the cores
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            (node,) = session.get_inputs()
            shape = [batch_size, *node.shape[1:]]
            images = np.random.default_rng(0).standard_normal(shape, np.float32)
            output = ort.OrtValue.ortvalue_from_numpy(session.run(None, {node.name: images})[0])
            binding = session.io_binding()
            binding.bind_cpu_input(node.name, images)
            binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
        except Exception as error:  # onnxruntime's own exceptions have no other base in common
            raise ProbeError(f"{name} does not run in onnxruntime {ort.__version__}: {error}") from error
        self._run: Callable[[], None] = lambda: session.run_with_iobinding(binding)
        self._times(WARM_UP)
        self._repeats = max(1, round(SAMPLE_MS / median(self._times(3))))

    def sample(self) -> float:
        """Median latency, ms, of about half a millisecond of runs, after one not timed because others ran before."""
        self._run()
        return median(self._times(self._repeats))

    def _times(self, count: int) -> list[float]:
        clock, run, times = time.perf_counter_ns, self._run, []
        for _ in range(count):
            start = clock()
            run()
            times.append((clock() - start) / 1e6)
        return times


# Plans.


class Plan:
    """A zip file with `plan.json` and the ONNX files that it names, as `supernet.export.probe_plan.write_plan` writes.

    Raises:
        ProbeError: there is no such file, or it is not a plan of the format this probe reads.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self._file = zipfile.ZipFile(path)
            self.json: dict[str, Any] = json.loads(self._file.read("plan.json"))
            plan_format = self.json["format"]
            self.entries: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in self.json["models"]}
            self.models = [self._model(name, entry["file"]) for name, entry in self.entries.items()]
            self.reference = self._file.read(self.json["reference"])
        except FileNotFoundError as error:
            raise ProbeError(f"there is no plan at {path}") from error
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise ProbeError(f"{path} is not a plan: {error}") from error
        if plan_format != FORMAT:
            raise ProbeError(f"{path} has plan format {plan_format}; this probe reads format {FORMAT}")

    def _model(self, name: str, file: str) -> Model:
        """A model that is read from the zip only when its turn comes."""
        return Model(name, lambda: self._file.read(file), self._file.getinfo(file).file_size)


def run_plan(
    path: str | Path,
    *,
    threads: int = 1,
    batch_size: int = 1,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure everything in a plan, as `measure` does.

    Returns JSON with finite numbers only, all latencies in ms:
    space, space_hash, threads, batch_size, host (`fingerprint`), seconds;
    busy: the share of the time in which other programs held the processor; above 0.1, better measure again;
    reference_ms: the reference network; overhead_ms: an empty network, which is what one call costs;
    blocks: by block key, the block as it is inside a network (`correct`);
    networks: architecture and ms of whole networks, the call included;
    measurements: by model, what was measured, before any correction.

    Raises:
        ProbeError: no plan there, or a model that does not run.
    """
    plan = Plan(path)
    started, ran = time.monotonic(), time.thread_time()
    measurements = measure(
        plan.models, plan.reference, threads=threads, batch_size=batch_size, seconds=seconds, progress=progress
    )
    took = time.monotonic() - started
    ms = in_ms(measurements)
    networks = [entry for entry in plan.entries.values() if entry["kind"] == "network"]
    return {
        "format": FORMAT,
        "space": plan.json["space"],
        "space_hash": plan.json["space_hash"],
        "threads": threads,
        "batch_size": batch_size,
        "host": fingerprint(),
        "seconds": took,
        "busy": max(0.0, 1 - (time.thread_time() - ran) / took),
        "reference_ms": median(measurement.reference_ms for measurement in measurements),
        "overhead_ms": ms["empty"],
        "blocks": correct(plan.entries, ms),
        "networks": [{"architecture": entry["architecture"], "ms": ms[entry["name"]]} for entry in networks],
        "measurements": {m.name: {"ms": ms[m.name], **asdict(m)} for m in measurements},
    }


def correct(entries: Mapping[str, Mapping[str, Any]], ms: Mapping[str, float]) -> dict[str, float]:
    """Latency of each block as it is inside a network, ms, by block key.

    A block measured alone also pays for one call, and for moving its input into onnxruntime's blocked memory layout and
    its output back, which inside a network happens at neither end. A call is the empty network; the moves at one shape
    follow from chains of one and of two trivial layers of that shape: 2 * one - two - call. Half of the moves at its
    input's shape and half of those at its output's are the block's. At least a hundredth of what was measured remains,
    whatever the noise.
    """
    call = ms["empty"]
    moves: dict[str, dict[int, float]] = {}
    for name, entry in entries.items():
        if entry["kind"] == "edge":
            moves.setdefault(entry["edge"], {})[entry["layers"]] = ms[name]
    move = {edge: max(0.0, 2 * chains[1] - chains[2] - call) for edge, chains in moves.items()}
    return {
        entry["key"]: max(ms[name] / 100, ms[name] - call - sum(move[edge] for edge in entry["edges"]) / 2)
        for name, entry in entries.items()
        if entry["kind"] == "block"
    }


def fingerprint() -> dict[str, Any]:
    """What was measured on: the processor, how many cores this process may use, the system and the runtime."""
    import onnxruntime as ort

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "runtime": f"onnxruntime {ort.__version__}, CPU",
    }


def _processor() -> str:
    """The processor's name: x86 has a model name, boards have a model of the board."""
    for path, pattern in (("/proc/cpuinfo", r"^model name\s*:\s*(.+)$"), ("/proc/device-tree/model", r"^([^\0]+)")):
        try:
            match = re.search(pattern, Path(path).read_text(errors="replace"), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


# Command line.


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a plan and write the result. Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description="Measure the networks of a plan with onnxruntime on this device.")
    parser.add_argument("plan", type=Path, help="the zip file from the service or from `supple probe`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1, help="threads per network (default: 1)")
    parser.add_argument("--batch-size", type=int, default=1, help="images per run (default: 1)")
    parser.add_argument("--seconds", type=float, help="stop after about so long (default: 40 samples each)")
    options = parser.parse_args(arguments)
    started, shown = time.monotonic(), ""

    def progress(done: int, total: int) -> None:
        nonlocal shown
        left = (time.monotonic() - started) * (total - done) / done
        line = f"\r{done / total:4.0%} measured, {left:.0f} s left   "
        if line != shown:
            print(line, end="", file=sys.stderr, flush=True)
            shown = line

    try:
        result = run_plan(
            options.plan,
            threads=options.threads,
            batch_size=options.batch_size,
            seconds=options.seconds,
            progress=progress,
        )
        temporary = options.output.with_name(f".{options.output.name}.tmp")
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False))
        temporary.replace(options.output)
    except (ProbeError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    print(f"\n{options.output} written", file=sys.stderr)
    if result["busy"] > BUSY:
        print(
            f"warning: other programs held the processor for {result['busy']:.0%} of the time. "
            "Close them and measure again, or large networks will look slower than they are.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
