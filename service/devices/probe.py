"""The device probe: measures the networks of a plan with onnxruntime. One file; it needs only numpy and onnxruntime.

    python probe.py PLAN.zip -o measurements.json

The speed of a machine varies: by several per cent a minute with frequency and temperature, and within milliseconds when
another program runs. The ratio of two networks that run right after each other hardly varies. So the probe takes every
sample of a model right after a sample of a small reference network, and visits all models many times in random order. A
latency is the median of the model's ratios times the median of the reference over the whole session.
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
SAMPLE_MS = 0.5  # a sample repeats a model for about this long
WARM_UP = 5  # untimed runs when a model is loaded
ROUNDS = 40  # samples per model, unless time runs out
FEWEST_ROUNDS = 5  # samples per model, even if time runs out
KEEP_BYTES = 100_000_000  # all models stay loaded if their files together are at most this large
SAMPLES_PER_LOAD = 5  # in a row, if models are loaded anew at every visit
BUSY = 0.1  # the share of the processor, taken by other programs, above which to warn


class ProbeError(ValueError):
    """The plan or one of its models cannot be used. The message names it."""


@dataclass(frozen=True)
class Model:
    """A model to measure. load: reads its ONNX file. size: of the file, in bytes; 0 if it is small."""

    name: str
    load: Callable[[], bytes]
    size: int = 0


@dataclass(frozen=True)
class Measurement:
    """The latency of one model, each sample taken right after a sample of the reference.

    ratio: median of model / reference over the samples. spread: median |deviation| from `ratio`, as a fraction of it.
    wall_ms, reference_ms: medians of model and reference over the same samples; both include drift.
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
    """Take 40 samples of each model, each right after a sample of a reference network. Everything runs in this thread.

    seconds: stop after about this long, but not before each model has 5 samples.
    progress: called with the samples done and the number of all samples. If `seconds` will end the session sooner, the
        elapsed share of `seconds` counts as the share of samples done.

    Raises:
        ProbeError: onnxruntime does not load or run a model, which the message names, or a setting is out of range.
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
    pairs: list[list[tuple[float, float]]] = [[] for _ in models]  # ms of the model, ms of the reference before it
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
    """The latency of each model, ms, without drift: its ratio times the same latency of the reference for all models.

    reference_ms: the reference's latency in an earlier session on the device, to compare with that session. None takes
    the median over these measurements.
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
        options.log_severity_level = 4  # errors are raised, not logged
        options.add_session_config_entry("session.force_spinning_stop", "1")  # else threads of idle models hold cores
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            (node,) = session.get_inputs()
            shape = [batch_size, *node.shape[1:]]
            images = np.random.default_rng(0).standard_normal(shape, np.float32)
            output = ort.OrtValue.ortvalue_from_numpy(session.run(None, {node.name: images})[0])
            binding = session.io_binding()
            binding.bind_cpu_input(node.name, images)
            binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
        except Exception as error:  # the exceptions of onnxruntime have no other common base
            raise ProbeError(f"{name} does not run in onnxruntime {ort.__version__}: {error}") from error
        self._run: Callable[[], None] = lambda: session.run_with_iobinding(binding)
        self._times(WARM_UP)
        self._repeats = max(1, round(SAMPLE_MS / median(self._times(3))))

    def sample(self) -> float:
        """Median latency, ms, of about half a millisecond of runs. An untimed run comes first, to warm the caches."""
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
    """A zip file with `plan.json` and the ONNX files that it names. `supernet.export.probe_plan.write_plan` writes it.

    Raises:
        ProbeError: there is no such file, or it is not a plan in the format that this probe reads.
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
        """A model whose file is read from the zip only when its turn comes."""
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

    Returns JSON with finite numbers only. All latencies are in ms:
    space, space_hash, threads, batch_size, host (`fingerprint`), seconds;
    busy: the share of the time in which other programs held the processor; if it is above 0.1, measure again;
    reference_ms: of the reference network; overhead_ms: of an empty network, which is the cost of one call;
    blocks: by block key, the latency of the block inside a network (`correct`);
    networks: architecture and ms of each whole network, including the call;
    measurements: by model, the uncorrected measurement.

    Raises:
        ProbeError: the file is not a plan, or a model does not run.
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
    """By block key, the latency of each block inside a network, ms.

    A block that is measured alone has three costs that it does not have inside a network: one call, the conversion of
    its input to onnxruntime's blocked memory layout, and the conversion of its output back. They are subtracted:

    - The call costs as much as the empty network.
    - Both conversions at one shape cost 2 * one - two - call, where `one` and `two` are the latencies of chains of one
      and of two trivial layers of that shape.
    - The block paid half of the conversions at its input's shape and half of the conversions at its output's shape.

    At least a hundredth of the measured latency remains, whatever the noise.
    """
    call = ms["empty"]
    chains: dict[str, dict[int, float]] = {}
    for name, entry in entries.items():
        if entry["kind"] == "edge":
            chains.setdefault(entry["edge"], {})[entry["layers"]] = ms[name]
    conversions = {edge: max(0.0, 2 * by_layers[1] - by_layers[2] - call) for edge, by_layers in chains.items()}
    return {
        entry["key"]: max(ms[name] / 100, ms[name] - call - sum(conversions[edge] for edge in entry["edges"]) / 2)
        for name, entry in entries.items()
        if entry["kind"] == "block"
    }


def fingerprint() -> dict[str, Any]:
    """The host: its processor, the number of cores that this process may use, the system and the runtime."""
    import onnxruntime as ort

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "runtime": f"onnxruntime {ort.__version__}, CPU",
    }


def _processor() -> str:
    """The name of the processor, or of the board if the processor has none."""
    for path, pattern in (("/proc/cpuinfo", r"^model name\s*:\s*(.+)$"), ("/proc/device-tree/model", r"^([^\0]+)")):
        try:
            match = re.search(pattern, Path(path).read_text(errors="replace"), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _write(path: Path, text: str) -> None:
    """Write a whole file or none. A symbolic link, a device and a pipe stay what they are."""
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:40]}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


# Command line.


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a plan and write the result. Returns the exit code: 0, or 2 after an error."""
    parser = argparse.ArgumentParser(description="Measure the networks of a plan with onnxruntime on this device.")
    parser.add_argument("plan", type=Path, help="the zip file from the service or from `supple probe`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1, help="threads per network (default: 1)")
    parser.add_argument("--batch-size", type=int, default=1, help="images per run (default: 1)")
    parser.add_argument("--seconds", type=float, help="stop after about this long (default: 40 samples of each model)")
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
        _write(options.output, json.dumps(result, indent=1, allow_nan=False))
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
