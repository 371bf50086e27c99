"""The device probe: measures the networks of a plan on the device where it runs. One file for Python 3.8 and newer.

    python probe.py --server ADDRESS --key KEY --supernet NAME --device NAME
    python probe.py --server ADDRESS --key KEY --device NAME --serve
    python probe.py PLAN.zip -o measurements.json

It needs numpy and one runtime: onnxruntime, openvino, ncnn with pnnx, or torch with onnx2torch. docs/devices.md at the
project describes the files.

A latency here is the latency of a network that runs in a loop, as it does in a product. The first runs after another
network has run are slower, the first by 40 to 400 % and the third still by several per cent, because the other one's
weights are in the caches. So each sample begins with untimed runs. The speed of a machine varies as well: by several
per cent a minute with frequency and temperature, and within milliseconds when another program runs. The ratio of two
networks that run right after each other hardly varies. So each sample lies between two samples of a reference network
of about the same latency, all networks are visited many times in random order, and a latency is the median of a
network's ratios times the median of the reference over the whole session.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import ipaddress
import json
import math
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, Callable, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

FORMAT = 2
REFERENCES = 1  # the version of the reference networks; raise it when they change
WARM_RUNS, WARM_MS = 4, 0.5  # untimed, at least
RUNS, RUNS_MS = 5, 2.0  # timed, at least
LONG_MS = 50.0  # no more runs after this long, warm or timed
REFERENCE_MS = 1.0  # like RUNS_MS, for references
SAMPLES = 40  # per model, unless time runs out
FEWEST_SAMPLES = 5  # per model, even if time runs out
KEEP_BYTES = 100_000_000  # all models stay loaded if their files together are at most this large
SAMPLES_PER_LOAD = 5  # in a row, if models are loaded anew at every visit
DISTURBED = 0.1  # a sample is repeated if the references before and after it differ by more than this fraction
REPEATS = 2  # of a disturbed sample, at most
BUSY = 0.1  # the share of the processor, taken by other programs, above which to warn
MEMORY_NETWORKS = 20  # whose memory is measured, each in a process of its own
ENERGY_SECONDS = 0.2  # of a loop whose energy is read
RAPL = Path("/sys/class/powercap")
CPU = "CPUExecutionProvider"
THREADS_OPTION = {"OpenVINOExecutionProvider": "num_of_threads", "XnnpackExecutionProvider": "intra_op_num_threads"}
POLL_SECONDS = 2.0

Shape = Tuple[int, ...]
Progress = Callable[[int, int], None]


class ProbeError(ValueError):
    """The plan, one of its models or a setting cannot be used. The message names it."""


# Runtimes. An adapter loads a network and runs it; nothing else here knows a runtime.


@dataclass(frozen=True)
class Loaded:
    """A network that is ready to run on fixed images. run: once. output: copies what the last run computed."""

    run: Callable[[], Any]
    output: Callable[[], np.ndarray[Any, Any]]


class Runtime(ABC):
    """A runtime with its settings.

    name, version: of the library. provider: what executes the networks. threads: of one run.
    """

    name = ""
    needs = ""  # what to install
    version = ""
    provider = "CPU"

    def __init__(self, threads: int, provider: str) -> None:
        self.threads = threads
        self.provider = provider or type(self).provider

    @abstractmethod
    def load(self, model: bytes, batch_size: int, shape: Shape | None = None) -> Loaded:
        """Load an ONNX file. shape: (C, H, W) of its input, for runtimes that do not read it from the file."""

    def nodes(self, model: bytes, batch_size: int) -> dict[str, int]:
        """How many of a network's nodes each provider executes; empty if only `provider` can."""
        return {}

    @property
    def on_cpu(self) -> bool:
        """Whether networks run on the processor."""
        return self.provider in ("CPU", CPU)

    def __str__(self) -> str:
        return "{} {}, {}".format(self.name, self.version, "CPU" if self.on_cpu else self.provider)


def _images(batch_size: int, shape: Sequence[Any]) -> Any:
    return np.random.default_rng(0).standard_normal((batch_size, *map(int, shape)), np.float32)


class OnnxRuntime(Runtime):
    """onnxruntime, with any execution provider that its build offers."""

    name = needs = "onnxruntime"
    provider = CPU

    def __init__(self, threads: int, provider: str) -> None:
        import onnxruntime

        super().__init__(threads, provider)
        self._ort, self.version = onnxruntime, onnxruntime.__version__
        offered = {name.lower(): name for name in onnxruntime.get_available_providers()}
        wanted = self.provider.lower()
        found = offered.get(wanted) or offered.get(wanted + "executionprovider")
        if found is None:
            raise ProbeError(
                f"provider is {provider!r}; this build of onnxruntime offers {', '.join(offered.values())}. "
                "Choose one of them, or install another build of onnxruntime"
            )
        self.provider = found

    def _session(self, model: bytes, profile: str = "") -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, not logged
        options.add_session_config_entry("session.force_spinning_stop", "1")  # else threads of idle models hold cores
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        own = THREADS_OPTION.get(self.provider)  # for providers with threads of their own
        providers = [(self.provider, {own: str(self.threads)} if own else {})]
        if self.provider != CPU:
            providers.append((CPU, {}))
        session = self._ort.InferenceSession(model, options, providers=providers)
        if self.provider not in session.get_providers():
            raise ProbeError(f"{self.provider} does not start here; its libraries or its device are missing")
        return session

    def load(self, model: bytes, batch_size: int, shape: Shape | None = None) -> Loaded:
        """Input and output are bound, so that a run copies nothing on the processor."""
        session = self._session(model)
        (node,) = session.get_inputs()
        images = _images(batch_size, node.shape[1:])
        output = self._ort.OrtValue.ortvalue_from_numpy(session.run(None, {node.name: images})[0])
        binding = session.io_binding()
        binding.bind_cpu_input(node.name, images)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
        return Loaded(lambda: session.run_with_iobinding(binding), lambda: np.array(output.numpy()))

    def nodes(self, model: bytes, batch_size: int) -> dict[str, int]:
        """Counted in the session's own profile of one run."""
        if self.provider == CPU:
            return {}
        with tempfile.TemporaryDirectory(prefix="supple-profile-") as folder:
            session = self._session(model, str(Path(folder) / "profile"))
            (node,) = session.get_inputs()
            session.run(None, {node.name: _images(batch_size, node.shape[1:])})
            events = json.loads(Path(session.end_profiling()).read_text())
        return dict(Counter(e["args"]["provider"] for e in events if "provider" in e.get("args", {})))


class OpenVino(Runtime):
    """OpenVINO's own runtime. provider: one of its devices, such as CPU, GPU or HETERO:GPU,CPU."""

    name = needs = "openvino"

    def __init__(self, threads: int, provider: str) -> None:
        import openvino

        super().__init__(threads, provider.upper())
        self._openvino, self._core = openvino, openvino.Core()
        self.version = str(openvino.__version__).split("-")[0]
        devices = self._core.available_devices
        missing = [name for name in re.split("[:,]", self.provider) if name not in ("HETERO", "AUTO", *devices)]
        if missing:
            raise ProbeError(f"provider is {provider!r}; OpenVINO offers {', '.join(devices)} here")

    def load(self, model: bytes, batch_size: int, shape: Shape | None = None) -> Loaded:
        """Compiled for low latency, in one stream and in single precision, in which accuracies were measured."""
        network = self._core.read_model(io.BytesIO(model))
        images = _images(batch_size, [side.get_length() for side in list(network.inputs[0].partial_shape)[1:]])
        network.reshape(list(images.shape))
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        if "CPU" in self.provider:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        request = self._core.compile_model(network, self.provider, settings).create_infer_request()
        request.set_input_tensor(self._openvino.Tensor(images))  # a copy: a shared array would have to be kept alive

        # `infer` runs in this thread; `start_async` waits for another one, which takes long on a busy machine.
        return Loaded(request.infer, lambda: np.array(request.get_output_tensor().data))

    def nodes(self, model: bytes, batch_size: int) -> dict[str, int]:
        """From the runtime's own answer to which device would execute which node."""
        if not self.provider.startswith("HETERO"):
            return {}
        return dict(Counter(self._core.query_model(self._core.read_model(io.BytesIO(model)), self.provider).values()))


class Ncnn(Runtime):
    """ncnn, on files that pnnx converts on the device."""

    name = needs = "ncnn"

    def __init__(self, threads: int, provider: str) -> None:
        import ncnn

        super().__init__(threads, provider.upper())
        self._ncnn, self.version = ncnn, str(ncnn.__version__)
        if self.provider != "CPU":
            raise ProbeError(f"provider is {provider!r}; ncnn is measured on the CPU alone")
        # The program of the package pnnx. The package itself would load torch, which the program does not need.
        folders = os.pathsep.join(str(Path(folder).resolve() / "pnnx") for folder in sys.path)
        self._pnnx = shutil.which("pnnx", path=folders) or shutil.which("pnnx")
        if self._pnnx is None:
            raise ProbeError("ncnn needs pnnx, which converts ONNX files; run `pip install --no-deps pnnx`")

    def load(self, model: bytes, batch_size: int, shape: Shape | None = None) -> Loaded:
        """Single precision, as in the other runtimes."""
        if batch_size != 1 or shape is None:
            raise ProbeError(f"ncnn runs one image of a known size; batch size is {batch_size}, the size is {shape}")
        network = self._ncnn.Net()
        network.opt.num_threads = self.threads
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
        if b"Identity" in model:  # a network without layers, such as a plan's empty one; pnnx converts none
            network.load_param_mem("7767517\n1 1\nInput in0 0 1 in0\n")
        else:
            self._convert(model, shape, network)
        image = _images(1, shape)[0]
        images = self._ncnn.Mat(image).clone()  # a copy, because a Mat of an array does not keep the array alive
        (source,), (result,) = network.input_names(), network.output_names()
        last: list[Any] = []

        def run() -> None:
            extractor = network.create_extractor()
            extractor.input(source, images)
            last[:] = extractor.extract(result)
            if last[0]:
                raise ProbeError(f"ncnn cannot run it: error {last[0]}")

        return Loaded(run, lambda: np.array(last[1])[None])

    def _convert(self, model: bytes, shape: Shape, network: Any) -> None:
        """Convert an ONNX file and load the result into an empty network of ncnn."""
        with tempfile.TemporaryDirectory(prefix="supple-ncnn-") as folder:
            (Path(folder) / "m.onnx").write_bytes(model)
            size = ",".join(map(str, (1, *shape)))
            command = [str(self._pnnx), "m.onnx", f"inputshape=[{size}]", "fp16=0"]
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            files = [Path(folder) / "m.ncnn.param", Path(folder) / "m.ncnn.bin"]
            if not all(file.exists() for file in files):
                raise ProbeError(f"pnnx cannot convert it: {done.stdout.decode(errors='replace')[-300:]}")
            if network.load_param(str(files[0])) or network.load_model(str(files[1])):
                raise ProbeError(f"ncnn {self.version} does not read what pnnx wrote; install both of the same date")


class Torch(Runtime):
    """PyTorch itself, on networks that onnx2torch reads."""

    name, needs = "torch", "torch onnx2torch"

    def __init__(self, threads: int, provider: str) -> None:
        import torch

        super().__init__(threads, provider.upper())
        self._torch, self.version = torch, str(torch.__version__)
        self._device = torch.device(self.provider.lower())
        torch.set_num_threads(threads)

    def load(self, model: bytes, batch_size: int, shape: Shape | None = None) -> Loaded:
        """Eager, without gradients."""
        import onnx
        import onnx2torch

        torch, proto = self._torch, onnx.load_model_from_string(model)
        sides = [dimension.dim_value for dimension in proto.graph.input[0].type.tensor_type.shape.dim][1:]
        network = onnx2torch.convert(proto).eval().to(self._device)
        images = torch.from_numpy(_images(batch_size, sides))
        last: list[Any] = []

        def run() -> None:
            with torch.inference_mode():
                last[:] = [network(images.to(self._device)).cpu()]

        return Loaded(run, lambda: last[0].numpy())


RUNTIMES = {runtime.name: runtime for runtime in (OnnxRuntime, OpenVino, Ncnn, Torch)}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_runtime(name: str = "onnxruntime", provider: str = "", threads: int = 1) -> Runtime:
    """A runtime by its name. provider: empty takes the processor.

    Raises:
        ProbeError: the runtime is unknown or not installed, it does not offer the provider, or there are more threads
            than cores.
    """
    if not 1 <= threads <= cores():
        raise ProbeError(
            f"threads is {threads}; this process may use {cores()} cores, and more threads than cores wait for each "
            f"other. Use 1 to {cores()}"
        )
    if name not in RUNTIMES:
        raise ProbeError(f"runtime is {name!r}; choose one of {', '.join(RUNTIMES)}")
    try:
        return RUNTIMES[name](threads, provider)
    except ImportError as error:
        raise ProbeError(f"{error}; run `pip install {RUNTIMES[name].needs}`") from error
    except RuntimeError as error:
        raise ProbeError(f"runtime {name} with provider {provider!r} does not start: {error}") from error


# Measuring.


@dataclass(frozen=True)
class Model:
    """A model to measure. load: reads its ONNX file. size: of the file, in bytes; 0 if it is small.

    shape: (C, H, W) of its input, for runtimes that need it.
    """

    name: str
    load: Callable[[], bytes]
    size: int = 0
    shape: Shape | None = None


class Sample(NamedTuple):
    """One sample of a model between two samples of a reference.

    model: empty for a sample of the reference alone; then `ms` is 0. reference_ms: the mean of both. run: counts the
    starts of the probe that share a journal.
    """

    model: str
    ms: float
    reference: str
    reference_ms: float
    run: int


@dataclass(frozen=True)
class Measurement:
    """The latency of one model.

    ratio: median over the samples of its latency over the geometric mean of the references, without drift.
    spread: median |deviation| from `ratio`, as a fraction of it. ratios: of each sample.
    wall_ms, reference_ms: medians of the model and of its reference over the same samples; both include drift.
    """

    name: str
    ratio: float
    spread: float
    wall_ms: float
    reference_ms: float
    samples: int
    ratios: list[float]


@dataclass(frozen=True)
class Reference:
    """The latency of a reference network, ms, over the samples of it alone."""

    ms: float
    spread: float
    samples: int


@dataclass(frozen=True)
class Measured:
    """What `measure` found. reference_ms: geometric mean of the references. repeated: disturbed samples."""

    models: list[Measurement]
    references: dict[str, Reference]
    repeated: int = 0

    @property
    def reference_ms(self) -> float:
        """The geometric mean of the references' latencies."""
        return _geometric_mean([reference.ms for reference in self.references.values()])

    def in_ms(self, reference_ms: float | None = None) -> dict[str, float]:
        """The latency of each model, ms, without drift.

        reference_ms: of an earlier session on the device, to compare with that session; None takes this session's.
        """
        scale = self.reference_ms if reference_ms is None else reference_ms
        return {model.name: model.ratio * scale for model in self.models}


@dataclass
class _Network:
    """A loaded network."""

    name: str
    run: Callable[[], Any]
    clock: Callable[[], int]

    def sample(self, least_ms: float = RUNS_MS) -> float:
        """Latency, ms, in a loop: the lower quartile of some runs, after untimed ones that fill the caches.

        Runs that another program interrupts are slower, never faster; the quartile leaves them out.
        """
        self._times(WARM_RUNS, WARM_MS)
        times = sorted(self._times(RUNS, least_ms))
        return times[len(times) // 4]

    def _times(self, least: int, least_ms: float) -> list[float]:
        clock, run, times = self.clock, self.run, []
        start = clock()
        while True:
            before = clock()
            run()
            after = clock()
            times.append((after - before) / 1e6)
            elapsed = (after - start) / 1e6
            if elapsed >= LONG_MS or (len(times) >= least and elapsed >= least_ms):
                return times


class _Bench:
    """Takes samples of models between samples of references."""

    def __init__(
        self, runtime: Runtime, references: Mapping[str, Model], batch_size: int, clock: Callable[[], int], run: int
    ) -> None:
        self._runtime, self._batch_size, self._clock, self._number = runtime, batch_size, clock, run
        self._references = {name: self.load(model) for name, model in references.items()}
        self.reference_of: dict[str, str] = {}  # by model, the reference of about its latency
        self.repeated = 0
        self._before: tuple[str, float] | None = None  # the reference that ran last, ms
        self.first = self.sample_references(FEWEST_SAMPLES)
        self._usual = {
            name: median(sample.reference_ms for sample in self.first if sample.reference == name)
            for name in self._references
        }

    def load(self, model: Model) -> _Network:
        """Load a model. Raises ProbeError, which names it."""
        try:
            loaded = self._runtime.load(model.load(), self._batch_size, model.shape)
            loaded.run()
        except Exception as error:  # the exceptions of runtimes have no other common base
            name, version = self._runtime.name, self._runtime.version
            raise ProbeError(f"{model.name} does not run in {name} {version}: {error}") from error
        return _Network(model.name, loaded.run, self._clock)

    def sample_references(self, count: int) -> list[Sample]:
        """Samples of every reference, which tell how the references compare."""
        samples = [
            Sample("", 0.0, name, network.sample(REFERENCE_MS), self._number)
            for _ in range(count)
            for name, network in self._references.items()
        ]
        self._before = None
        return samples

    def sample(self, network: _Network) -> Sample:
        """A sample, repeated if something disturbed it."""
        name = self.reference_of.get(network.name)
        if name is None:
            ms = network.sample()
            name = min(self._usual, key=lambda reference: abs(math.log(self._usual[reference] / ms)))
            self.reference_of[network.name], self._before = name, None
        reference = self._references[name]
        if self._before is None or self._before[0] != name:
            self._before = name, reference.sample(REFERENCE_MS)
        for repeats_left in range(REPEATS, -1, -1):
            before = self._before[1]
            ms = network.sample()
            after = reference.sample(REFERENCE_MS)
            self._before = name, after
            if abs(after / before - 1) <= DISTURBED or not repeats_left:
                break
            self.repeated += 1
        return Sample(network.name, ms, name, (before + after) / 2, self._number)


def measure(
    models: Sequence[Model],
    references: Mapping[str, Model],
    runtime: Runtime,
    *,
    batch_size: int = 1,
    samples: int = SAMPLES,
    seconds: float | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Measured:
    """Take samples of each model, each between two samples of a reference of about its latency.

    seconds: stop after about this long, but not before each model has 5 samples.
    progress: called with the samples done and the number of all samples. If `seconds` will end the session sooner, the
        elapsed share of `seconds` counts as the share of samples done.
    journal: has the samples of earlier starts, which are not taken again, and gets the new ones.
    clock: nanoseconds.

    Raises:
        ProbeError: the runtime does not load or run a model, which the message names, or a setting is out of range.
    """
    if batch_size < 1 or samples < 1:
        raise ProbeError(f"batch size is {batch_size}, samples {samples}; both must be at least 1")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ProbeError(f"seconds is {seconds}; a positive number is needed")
    journal = journal or Journal()
    keep = sum(model.size for model in models) <= KEEP_BYTES
    per_visit = 1 if keep else SAMPLES_PER_LOAD
    bench = _Bench(runtime, references, batch_size, clock, journal.run)
    bench.reference_of.update({sample.model: sample.reference for sample in journal.samples if sample.model})
    journal.add(bench.first)
    taken = Counter(sample.model for sample in journal.samples)
    networks: dict[str, _Network] = {}
    total, shuffle, started = samples * len(models), random.Random(journal.run), time.monotonic()
    for visit in range(1, math.ceil(samples / per_visit) + 1):
        goal, resumed = min(samples, visit * per_visit), time.monotonic()
        due = [model for model in shuffle.sample(list(models), len(models)) if taken[model.name] < goal]
        if due:
            journal.add(bench.sample_references(per_visit))  # on every visit, for the state of the machine changes
        for model in sorted(due, key=lambda model: bench.reference_of.get(model.name, "")):
            network = networks.get(model.name) or bench.load(model)
            if keep:
                networks[model.name] = network
            journal.add([bench.sample(network) for _ in range(goal - taken[model.name])])
            taken[model.name] = goal
            if progress:
                by_time = (time.monotonic() - started) / seconds if seconds else 0.0
                done = sum(taken[each.name] for each in models)
                progress(min(total, max(int(by_time * total), done)), total)
        elapsed = time.monotonic() - started
        if seconds is not None and elapsed + time.monotonic() - resumed > seconds and goal >= FEWEST_SAMPLES:
            break
    if progress:
        progress(total, total)
    return _summary([model.name for model in models], list(references), journal.samples, bench.repeated)


def _summary(names: Sequence[str], references: Sequence[str], samples: Sequence[Sample], repeated: int) -> Measured:
    """Latencies from samples. Ratios are to the references of the same start, since loading anew may change them.

    How the references compare is told by their samples alone, which were taken next to each other: those around models
    are more for one reference than for another, and at other times.
    """
    usual: dict[tuple[int, str], list[float]] = {}
    alone = [sample for sample in samples if not sample.model]
    for sample in alone:
        usual.setdefault((sample.run, sample.reference), []).append(sample.reference_ms)
    medians = {key: median(times) for key, times in usual.items()}
    means = {run: _geometric_mean([medians[run, name] for name in references]) for run, _ in medians}
    by_model: dict[str, list[Sample]] = {}
    for sample in samples:
        by_model.setdefault(sample.model, []).append(sample)
    models = []
    for name in names:
        of_model = by_model[name]
        ratios = [s.ms / s.reference_ms * medians[s.run, s.reference] / means[s.run] for s in of_model]
        ratio = median(ratios)
        wall_ms, reference_ms = median(s.ms for s in of_model), median(s.reference_ms for s in of_model)
        models.append(Measurement(name, ratio, _spread(ratios), wall_ms, reference_ms, len(ratios), ratios))
    times = {name: [s.reference_ms for s in alone if s.reference == name] for name in references}
    return Measured(models, {name: Reference(median(t), _spread(t), len(t)) for name, t in times.items()}, repeated)


def _spread(values: Sequence[float]) -> float:
    middle = median(values)
    return median(abs(value - middle) for value in values) / middle


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


# Plans, journals and results.


class Journal:
    """Samples, each appended to a file when it is taken; in memory alone without a path.

    run: the number of this start of the probe. header: what all samples of a journal share.

    Raises:
        ProbeError: the file is the journal of something else.
    """

    def __init__(self, path: Path | None = None, header: Mapping[str, Any] | None = None) -> None:
        self.samples: list[Sample] = []
        self.run = 0
        self._path = path
        lines = self._lines(path, header or {}) if path else []
        for line in lines:
            if "run" in line:
                self.run = line["run"] + 1
            else:
                self.samples.append(Sample(run=self.run - 1, **line))
        if path and not lines:
            path.write_text(json.dumps({"journal": FORMAT, **(header or {})}) + "\n")
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._append([{"run": self.run, "started": started, "load": load_average()}])

    @staticmethod
    def _lines(path: Path, header: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The lines after the first. A broken last line is cut off."""
        if not path.exists() or not path.stat().st_size:
            return []
        *whole, broken = path.read_bytes().split(b"\n")
        if broken:
            path.write_bytes(b"".join(line + b"\n" for line in whole))
        try:
            first, *lines = [json.loads(line) for line in whole]
            if first.pop("journal") != FORMAT:
                raise ValueError("it has another format")
        except (ValueError, KeyError, AttributeError) as error:
            raise ProbeError(f"{path} is not a journal of this probe: {error}. Delete it to start anew") from error
        for key, value in header.items():
            if first.get(key) != value:
                raise ProbeError(
                    f"{path} is the journal of another run: its {key} is {first.get(key)}, this run's is {value}. "
                    "Finish that run, or delete the journal to start anew"
                )
        return lines

    def add(self, samples: Sequence[Sample]) -> None:
        """Append samples, also to the file."""
        self.samples += samples
        self._append([dict(zip(Sample._fields[:4], sample)) for sample in samples])

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self._path:
            with self._path.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a plan is a whole network to learn from."""
    return entry["kind"] == "network" and not entry.get("check")


class Plan:
    """A zip file with `plan.json` and the ONNX files that it names. `supernet.export.probe_plan.write_plan` writes it.

    most: leaves out whole networks after the first so many.

    Raises:
        ProbeError: there is no such file, or it is not a plan in the format that this probe reads.
    """

    def __init__(self, path: str | Path, most: int | None = None) -> None:
        try:
            self._file = zipfile.ZipFile(path)
            self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            self.json: dict[str, Any] = json.loads(self._file.read("plan.json"))
            plan_format = self.json["format"]
            if plan_format != FORMAT:
                raise ProbeError(f"{path} has plan format {plan_format}; this probe reads format {FORMAT}")
            entries = {entry["name"]: entry for entry in self.json["models"]}
            networks = [name for name, entry in entries.items() if _is_whole(entry)]
            self.left_out = [] if most is None else networks[most:]
            self.entries: dict[str, dict[str, Any]] = {
                name: entry for name, entry in entries.items() if name not in self.left_out
            }
            self.models = [self._model(entry) for entry in self.entries.values() if not entry.get("check")]
            self.checks = [self._model(entry) for entry in self.entries.values() if entry.get("check")]
            self.references = {entry["name"]: self._model(entry) for entry in self.json["references"]}
            if not self.models or not self.references:
                raise ValueError("it holds no models or no references")
        except ProbeError:
            raise
        except FileNotFoundError as error:
            raise ProbeError(f"there is no plan at {path}") from error
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProbeError(f"{path} is not a plan: {error}") from error

    def _model(self, entry: Mapping[str, Any]) -> Model:
        """A model whose file is read from the zip only when its turn comes."""
        file = entry["file"]
        return Model(
            entry["name"], lambda: self._file.read(file), self._file.getinfo(file).file_size, tuple(entry["shape"])
        )


def run_plan(
    path: str | Path,
    *,
    runtime: Runtime | None = None,
    threads: int = 1,
    batch_size: int = 1,
    samples: int = SAMPLES,
    seconds: float | None = None,
    most: int | None = None,
    memory: bool = False,
    progress: Progress | None = None,
    journal: Path | None = None,
) -> dict[str, Any]:
    """Measure everything in a plan, as `measure` does. Returns the result that docs/devices.md describes.

    runtime: None takes onnxruntime on the processor with `threads`. most: measure at most so many whole networks.
    memory: measure the peak memory of whole networks, too, each in a process of its own. journal: a file.

    Raises:
        ProbeError: the file is not a plan, a model does not run, a setting is out of range, or the journal is of
            another run. OSError: the journal cannot be written.
    """
    runtime = runtime or make_runtime(threads=threads)
    if most is not None and most < 1:
        raise ProbeError(f"most is {most}; at least 1 network is needed")
    plan = Plan(path, most)
    shared: dict[str, Any] = {
        "plan": plan.digest,
        "threads": runtime.threads,
        "batch_size": batch_size,
        "runtime": {"name": runtime.name, "version": runtime.version, "provider": runtime.provider},
        "host": fingerprint(runtime),
    }
    fallback = _fallback(plan, runtime, batch_size)
    load_before, started = load_average(), time.monotonic()
    used, held = _own_seconds(), _processor_seconds()
    measured = measure(
        plan.models,
        plan.references,
        runtime,
        batch_size=batch_size,
        samples=samples,
        seconds=seconds,
        progress=progress,
        journal=Journal(journal, shared),
    )
    took, used = time.monotonic() - started, _own_seconds() - used
    held = None if held is None else (_processor_seconds() or held) - held
    ms, scale = measured.in_ms(), measured.reference_ms
    by_name = {model.name: model for model in measured.models}
    networks = [name for name, entry in plan.entries.items() if _is_whole(entry)]
    memory_bytes = _memory_of_networks(path, networks, runtime, batch_size, progress) if memory else {}
    joules = _joules_of_networks(plan, networks, runtime, batch_size)
    checks = _second_run(path, plan, runtime, batch_size, samples)
    is_complete = not plan.left_out and all(model.samples >= samples for model in measured.models)
    clock = time.get_clock_info("perf_counter")
    return {
        "format": FORMAT,
        "space": plan.json["space"],
        "space_hash": plan.json["space_hash"],
        "status": "complete" if is_complete else "partial",
        **shared,
        "runtime": {**shared["runtime"], "fallback": fallback},
        "clock": {"name": clock.implementation, "resolution_ns": clock.resolution * 1e9},
        "load": {"before": load_before, "after": load_average()},
        "seconds": took,
        "busy": _busy(runtime.threads, cores(), took, used, held) if runtime.on_cpu else None,
        "repeated": measured.repeated,
        "reference_ms": scale,
        "references": {name: asdict(reference) for name, reference in measured.references.items()},
        "overhead_ms": ms.get("empty"),
        "blocks": correct(plan.entries, ms),
        "networks": [
            {
                **_entry(plan, by_name[name], scale),
                "memory_bytes": memory_bytes.get(name),
                "joules": joules.get(name),
            }
            for name in networks
        ],
        "checks": [_entry(plan, model, scale) for model in checks],
        "measurements": {
            model.name: {
                **asdict(model),
                "memory_bytes": memory_bytes.get(model.name),
                "joules": joules.get(model.name),
            }
            for model in measured.models
        },
    }


def _entry(plan: Plan, model: Measurement, scale: float) -> dict[str, Any]:
    """A whole network as results list it. scale: the `reference_ms` of the first run."""
    return {
        "architecture": plan.entries[model.name]["architecture"],
        "ms": model.ratio * scale,
        "ratio": model.ratio,
        "spread": model.spread,
        "samples": model.samples,
    }


def _second_run(path: str | Path, plan: Plan, runtime: Runtime, batch_size: int, samples: int) -> list[Measurement]:
    """The latencies of the plan's checks, measured in a process of their own, as a latency model will be used.

    Raises:
        ProbeError: the process failed.
    """
    if not plan.checks:
        return []
    done = subprocess.run(
        [*_this_probe(path, runtime, batch_size), "--samples", str(samples), "--checks"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise ProbeError(f"the second run failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return [Measurement(**model) for model in json.loads(done.stdout)]


def _print_checks(plan: Plan, runtime: Runtime, batch_size: int, samples: int) -> None:
    """Print the second run's measurements as JSON. In a fresh process."""
    measured = measure(plan.checks, plan.references, runtime, batch_size=batch_size, samples=samples)
    print(json.dumps([asdict(model) for model in measured.models]))


def _this_probe(path: str | Path, runtime: Runtime, batch_size: int) -> list[str]:
    """The command that runs this file in a process of its own, with these settings."""
    command = [sys.executable, str(Path(__file__).resolve()), str(path)]
    command += ["--runtime", runtime.name, "--provider", runtime.provider]
    return [*command, "--threads", str(runtime.threads), "--batch-size", str(batch_size)]


def correct(entries: Mapping[str, Mapping[str, Any]], ms: Mapping[str, float]) -> dict[str, float]:
    """By block key, the latency of each block inside a network, ms.

    A block that is measured alone has three costs that it does not have inside a network: one call, the conversion of
    its input to the runtime's blocked memory layout, and the conversion of its output back. They are subtracted:

    - The call costs as much as the empty network.
    - Both conversions at one shape cost 2 * one - two - call, where `one` and `two` are the latencies of chains of one
      and of two trivial layers of that shape.
    - The block paid half of the conversions at its input's shape and half of the conversions at its output's shape.

    At least a hundredth of the measured latency remains, whatever the noise.
    """
    call = ms.get("empty", 0.0)
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


def _fallback(plan: Plan, runtime: Runtime, batch_size: int) -> dict[str, Any] | None:
    """Which nodes of the whole networks another provider executes than the one asked for; None if there are none.

    Raises:
        ProbeError: the provider executes no node at all, or it does not load a network.
    """
    nodes: Counter[str] = Counter()
    for model in plan.models:
        if plan.entries[model.name]["kind"] == "network":
            try:
                nodes.update(runtime.nodes(model.load(), batch_size))
            except ProbeError:
                raise
            except Exception as error:  # the exceptions of runtimes have no other common base
                raise ProbeError(f"{model.name} does not run in {runtime}: {error}") from error
    own = [name for name in nodes if name == runtime.provider or runtime.provider.startswith("HETERO:" + name)]
    others = {name: count for name, count in nodes.items() if name not in own}
    if nodes and not own:
        raise ProbeError(
            f"{runtime.provider} executes none of the {sum(nodes.values())} nodes; {', '.join(others)} executes them "
            "all. Measure with that provider"
        )
    if not others:
        return None
    return {"provider": ", ".join(others), "nodes": sum(others.values()), "of": sum(nodes.values())}


# Memory and energy.


def _memory_of_networks(
    path: str | Path, names: Sequence[str], runtime: Runtime, batch_size: int, progress: Progress | None = None
) -> dict[str, int]:
    """Peak memory of the first networks, bytes: what the process grows by, at most, while it loads and runs one.

    Each network has a process of its own. Empty where the system does not tell. progress: called after each network,
    with all samples as done, so that a claim is renewed meanwhile.
    """
    found = {}
    for name in names[:MEMORY_NETWORKS]:
        command = [*_this_probe(path, runtime, batch_size), "--memory-of", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and done.stdout.strip().isdigit():
            found[name] = int(done.stdout)
        if progress:
            progress(1, 1)
    return found


def _print_memory(plan: Plan, name: str, runtime: Runtime, batch_size: int) -> None:
    """Print the peak memory of one network, bytes; nothing where the system does not tell. In a fresh process."""
    reference = next(iter(plan.references.values()))
    runtime.load(reference.load(), batch_size, reference.shape).run()  # what the runtime itself needs
    model = next(model for model in plan.models if model.name == name)
    before = _resident(reset=True)
    loaded = runtime.load(model.load(), batch_size, model.shape)
    for _ in range(WARM_RUNS):
        loaded.run()
    after = _resident()
    if before is not None and after is not None:
        print(max(0, after - before))


def _resident(reset: bool = False) -> int | None:
    """The peak of this process's memory in bytes, on Linux. reset: let the peak begin with the memory it has now."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _joules_of_networks(plan: Plan, names: Sequence[str], runtime: Runtime, batch_size: int) -> dict[str, float]:
    """Energy of one run of each network, joules, from the processor's counters; empty where they cannot be read.

    The counters see the whole processor, other programs and idle power included.
    """
    if not runtime.on_cpu or _energy() is None:
        return {}
    found = {}
    for model in plan.models:
        if model.name in names:
            run = runtime.load(model.load(), batch_size, model.shape).run
            before, count, end = _energy(), 0, time.monotonic() + ENERGY_SECONDS
            while time.monotonic() < end:
                run()
                count += 1
            after = _energy()
            if before is not None and after is not None and after >= before:  # else the counter began anew
                found[model.name] = (after - before) / count
    return found


def _energy() -> float | None:
    """Joules that all processor packages have used since some time; None where no counter can be read."""
    total = None
    for counter in RAPL.glob("intel-rapl:[0-9]*/energy_uj"):
        if counter.parent.name.count(":") == 1:  # a whole package, not a part of one
            try:
                total = (total or 0.0) + int(counter.read_text()) / 1e6
            except (OSError, ValueError):
                continue
    return total


# The host.


def fingerprint(runtime: Runtime | None = None) -> dict[str, Any]:
    """The host: its processor, the number of cores that this process may use, the system, the runtime.

    Two results compare if their fingerprints are equal. runtime: None takes onnxruntime on the processor.
    """
    return {
        "processor": _processor(),
        "cores": cores(),
        "machine": platform.machine(),
        "system": platform.system(),
        "runtime": str(runtime or make_runtime()),
        "references": REFERENCES,
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


def _own_seconds() -> float:
    """Processor time of this process and of the processes that it has waited for, such as a converter."""
    return sum(os.times()[:4])


def _busy(threads: int, cores: int, took: float, used: float, held: float | None) -> float:
    """The share that other programs held of the processors that a measurement needed.

    took: seconds. used: this process's processor seconds. held: of all processes, on the cores that this process may
    use; None where the system does not tell. Then a measurement is taken to use its first thread all the time.
    """
    if held is None:
        return max(0.0, 1 - used / took)
    others = held - used - (cores - threads) * took  # beyond the cores that the measurement leaves to them
    return min(1.0, max(0.0, others / (threads * took)))


def _processor_seconds() -> float | None:
    """Seconds in which the cores that this process may use were busy, also for other virtual machines.

    None where the system does not tell, or shows a container no work or other cores.
    """
    try:
        text, mine = Path("/proc/stat").read_text(), os.sched_getaffinity(0)
        ticks = os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError):
        return None
    total = 0
    for line in text.splitlines():
        match = re.match(r"cpu(\d+) (.*)", line)
        if match and int(match[1]) in mine:
            user, nice, system, _, _, *rest = map(int, match[2].split()[:8])  # without idle and waiting for disks
            total += user + nice + system + sum(rest)
    return total / ticks if total else None


def load_average() -> float | None:
    """How many programs wanted to run in the last minute, on average; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


# The service.


class Server:
    """The service's HTTP interface. Requests to this machine go through no proxy.

    Raises:
        ProbeError: the service does not answer, or it refuses a request.
    """

    def __init__(self, address: str, key: str = "") -> None:
        if not re.match(r"https?://[^/]", address):
            raise ProbeError(f"the server's address is {address!r}; it must start with http:// or https://")
        self._address, self._key = address.rstrip("/"), key.strip()
        host = urllib.parse.urlsplit(address).hostname or ""
        handlers = [urllib.request.ProxyHandler({})] if _is_loopback(host) else []
        self._opener = urllib.request.build_opener(*handlers)

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer to a GET, or to a POST of JSON."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body, allow_nan=False).encode()
        request = urllib.request.Request(self._address + path, data, headers)
        try:
            with self._opener.open(request, timeout=90) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                detail = json.loads(text)["detail"]
            except (ValueError, KeyError, TypeError):
                detail = f"status {error.code} without JSON; is it a Supple service?"
            raise RefusedError(error.code, f"{self._address}{path}: {detail}") from error
        except OSError as error:
            raise ProbeError(f"{self._address} does not answer: {error}; check the address and that it runs") from error

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        return json.loads(self.call(path)[2])

    def plan(self, supernet: str, networks: int | None, wait: Callable[[float], None] = time.sleep) -> bytes:
        """The plan of a supernet, by its name or id, once a worker has built it.

        networks: how many whole networks alone; None measures blocks, too.
        """
        cursor: str | None = ""
        names: list[str] = []
        while cursor is not None:
            page = self.get("/v1/supernets" + (f"?cursor={cursor}" if cursor else ""))
            for row in page["items"]:
                names.append(row["name"])
                if supernet in (row["id"], row["name"]):
                    path = f"/v1/supernets/{row['id']}/plan" + (f"?networks={networks}" if networks else "")
                    status, headers, data = self.call(path)
                    if status == 202:
                        _say("waiting for a worker of the service to build the plan")
                    while status == 202:
                        wait(float(headers.get("Retry-After", POLL_SECONDS)))
                        status, headers, data = self.call(path)
                    return data
            cursor = page["next"]
        raise ProbeError(f"there is no supernet {supernet!r} at {self._address}; it has {', '.join(names) or 'none'}")

    def register(self, device: str, runtime: Runtime, batch_size: int) -> None:
        """Register a device unless it is registered; then check that it has these settings."""
        settings = {"threads": runtime.threads, "batch_size": batch_size}
        try:
            registered = self.get(f"/v1/devices/{device}")
        except RefusedError as error:
            if error.status != 404:
                raise
            self.call("/v1/devices", {"name": device, "runtime": str(runtime), **settings})
            return
        for name, value in settings.items():
            if registered[name] != value:
                raise ProbeError(
                    f"device {device!r} has {name} {registered[name]} at {self._address}, not {value}; measure as it "
                    "is registered, or choose another name"
                )

    def post(self, device: str, result: Mapping[str, Any]) -> Any:
        """Post a result. Returns the latency model."""
        return json.loads(self.call(f"/v1/devices/{device}/measurements", result)[2])

    def claim(self, device: str, runtime: Runtime, probe: str) -> tuple[dict[str, Any] | None, float]:
        """A measurement job to run now, or None and the seconds after which to ask again."""
        body = {"host": fingerprint(runtime), "probe": probe}
        status, headers, answer = self.call(f"/v1/devices/{device}/jobs/claim", body)
        return json.loads(answer) if status == 200 else None, float(headers.get("Retry-After", POLL_SECONDS))

    def end(self, job: Mapping[str, Any], **body: Any) -> None:
        """End a claimed job with its `result`, or with the `error` that keeps it from being measured."""
        self.call(f"/v1/devices/{job['device']}/jobs/{job['id']}/results", {"claim": job["claim"], **body})

    def renew(self, job: Mapping[str, Any]) -> None:
        """Keep a claimed job."""
        self.call(f"/v1/devices/{job['device']}/jobs/{job['id']}/renew", {"claim": job["claim"]})


class RefusedError(ProbeError):
    """The service refused a request. status: HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Command line.


def _write(path: Path, text: str) -> None:
    """Write a file so that it is never half-written. A device or pipe takes the text as it is; a link stays."""
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:40]}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bar() -> Progress:
    """Shows progress on one line of a terminal; elsewhere a line every tenth of the way."""
    started = time.monotonic()
    first: list[int] = []  # samples done before this start
    shown = [""]

    def progress(done: int, total: int) -> None:
        first[:] = first or [done - 1]
        left = (time.monotonic() - started) * (total - done) / max(1, done - first[0])
        line = f"{done / total:4.0%} measured, {left:.0f} s left"
        if sys.stderr.isatty():
            print(f"\r{line}   ", end="", file=sys.stderr, flush=True)
        elif shown[0] != str(10 * done // total):
            _say(line)
            shown[0] = str(10 * done // total)

    return progress


def _journal(output: Path) -> Path | None:
    """The journal beside a file; None beside a device or a pipe."""
    return output.with_name(output.name + ".journal") if output.is_file() or not output.exists() else None


def _measure_and_write(options: argparse.Namespace, runtime: Runtime, plan: Path, output: Path) -> dict[str, Any]:
    load = load_average()
    if load is not None and load > cores() / 2:
        _say(f"warning: the load average is {load:.1f} on {cores()} cores: other programs run. Close them if you can")
    journal = _journal(output)
    if journal and journal.exists():
        _say(f"continuing from {journal}")
    result = run_plan(
        plan,
        runtime=runtime,
        batch_size=options.batch_size,
        samples=options.samples,
        seconds=options.seconds,
        most=options.most,
        memory=options.memory,
        progress=_bar(),
        journal=journal,
    )
    _write(output, json.dumps(result, indent=1, allow_nan=False))
    if sys.stderr.isatty():
        _say("")
    _say(f"{output} written")
    for warning in warnings(result):
        _say(f"warning: {warning}")
    return result


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What makes a result less useful than it could be."""
    found = []
    if (result["busy"] or 0) > BUSY:
        found.append(
            f"other programs held the processor for {result['busy']:.0%} of the time; close them and measure again, or "
            "large networks may look slower than they are"
        )
    fallback = result["runtime"]["fallback"]
    if fallback:
        found.append(
            f"{fallback['provider']} executed {fallback['nodes']} of {fallback['of']} nodes, because "
            f"{result['runtime']['provider']} cannot; a network that falls back may be 20 times slower"
        )
    return found


def _online(options: argparse.Namespace, runtime: Runtime) -> None:
    """Register the device, fetch the plan, measure, post the result. The journal is kept until it is posted."""
    server, output = Server(options.server, options.key), options.output or Path(f"{options.device}.json")
    server.register(options.device, runtime, options.batch_size)
    plan = output.with_name(output.stem + "-plan.zip")
    plan.write_bytes(server.plan(options.supernet, options.networks))
    card = server.post(options.device, _measure_and_write(options, runtime, plan, output))["card"]
    plan.unlink()
    journal = _journal(output)
    if journal:
        journal.unlink()
    _say(f"latency model of {options.device} fitted: {json.dumps(card)}")


def _serve(options: argparse.Namespace, runtime: Runtime) -> None:
    """Run the measurement jobs of a device, until interrupted or idle for `--idle` seconds.

    A service that does not answer is asked again. A claim that was lost is given up.
    """
    server, probe = Server(options.server, options.key), f"{platform.node() or 'a probe'}, process {os.getpid()}"
    _say(f"waiting for measurement jobs of {options.device}; Ctrl+C ends this")
    since, fault = time.monotonic(), ""
    while options.idle is None or time.monotonic() - since < options.idle:
        job, wait = None, POLL_SECONDS
        try:
            job, wait = server.claim(options.device, runtime, probe)
            fault = ""
        except ProbeError as error:
            if _is_lost(error):
                raise
            fault = _say_once(str(error), fault)
        if job is None:
            time.sleep(wait)
            continue
        try:
            _run_job(server, job, runtime)
        except RefusedError as error:
            _say(f"job {job['id']} is lost: {error}")
        except ProbeError as error:
            _say(f"job {job['id']} was not posted: {error}")
        since = time.monotonic()


def _say_once(text: str, last: str) -> str:
    if text != last:
        _say(f"{text}; trying again")
    return text


def _run_job(server: Server, job: Mapping[str, Any], runtime: Runtime) -> None:
    """Measure a claimed job and post the result, or why there is none; renew the claim meanwhile."""
    _say(f"job {job['id']}: {job['networks']} networks of search {job['search']}")
    renewed = [time.monotonic()]

    def renew(done: int, total: int) -> None:
        if time.monotonic() - renewed[0] > job["lease_seconds"] / 4:
            renewed[0] = time.monotonic()
            try:
                server.renew(job)
            except ProbeError as error:
                if _is_lost(error):
                    raise

    with tempfile.TemporaryDirectory(prefix="supple-job-") as folder:
        plan = Path(folder) / "plan.zip"
        plan.write_bytes(server.call(job["plan"])[2])
        try:
            result = run_plan(
                plan,
                runtime=runtime,
                batch_size=job["batch_size"],
                samples=job["samples"],
                memory=job.get("memory", False),
                progress=renew,
            )
        except RefusedError:
            raise
        except ProbeError as error:
            server.end(job, error=str(error)[:2_000])
            _say(f"job {job['id']} cannot be measured: {error}")
            return
    for warning in warnings(result):
        _say(f"warning: {warning}")
    until = time.monotonic() + job["lease_seconds"]
    while True:
        try:
            server.end(job, result=result)
            _say(f"job {job['id']} measured")
            return
        except ProbeError as error:
            if isinstance(error, RefusedError) and error.status == 422:
                server.end(job, error=str(error)[:2_000])  # it would be refused again
            if _is_lost(error) or time.monotonic() > until:
                raise
        time.sleep(POLL_SECONDS)


def _is_lost(error: ProbeError) -> bool:
    """Whether the service refused for good, and does not merely fail to answer."""
    return isinstance(error, RefusedError) and error.status < 500


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure networks on this device, for a Supple service.")
    parser.add_argument("plan", type=Path, nargs="?", help="zip file that `supple plan` or the service wrote")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write (with --server: DEVICE.json)")
    parser.add_argument("--server", help="address of a service to fetch the plan from and post the result to")
    parser.add_argument("--key", default=os.environ.get("SUPPLE_KEY", ""), help="API key (default: SUPPLE_KEY)")
    parser.add_argument("--supernet", help="its name or id at the service")
    parser.add_argument("--device", help="this device's name at the service")
    parser.add_argument("--serve", action="store_true", help="then measure what searches of the service verify")
    parser.add_argument("--idle", type=float, help="with --serve: end after so many seconds without a job")
    parser.add_argument("--networks", type=int, help="measure so many whole networks alone, and no blocks")
    parser.add_argument("--runtime", default="onnxruntime", choices=list(RUNTIMES), help="default: onnxruntime")
    parser.add_argument("--provider", default="", help="what executes the networks, such as CUDA (default: CPU)")
    parser.add_argument("--threads", type=int, default=1, help="threads per network (default: 1)")
    parser.add_argument("--batch-size", "--batch", type=int, default=1, help="images per run (default: 1)")
    parser.add_argument("--seconds", type=float, help="stop after about this long")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"of each network (default: {SAMPLES})")
    parser.add_argument("--most", type=int, help="measure at most so many whole networks of the plan")
    parser.add_argument("--memory", action="store_true", help=f"also of {MEMORY_NETWORKS} networks: peak memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--checks", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a plan and write or post the result. Returns the exit code: 0, or 2 after an error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.server and not (options.device and (options.supernet or options.serve)):
        parser.error("--server needs --device, and --supernet to measure its plan or --serve to run jobs")
    if options.serve and not options.server:
        parser.error("--serve needs --server")
    if not options.server and not (options.plan and (options.output or options.memory_of or options.checks)):
        parser.error("name a plan and an output, or --server, --supernet and --device")
    try:
        runtime = make_runtime(options.runtime, options.provider, options.threads)
        if options.memory_of:
            _print_memory(Plan(options.plan), options.memory_of, runtime, options.batch_size)
        elif options.checks:
            _print_checks(Plan(options.plan), runtime, options.batch_size, options.samples)
        elif options.server:
            if options.supernet:
                _online(options, runtime)
            if options.serve:
                _serve(options, runtime)
        else:
            _measure_and_write(options, runtime, options.plan, options.output)
            journal = _journal(options.output)
            if journal:
                journal.unlink()
    except (ProbeError, OSError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("\ninterrupted; run the same command again to continue")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
