"""Does a latency come back? `python -m benchmarks.agreement [--spaces mbv3-cifar mbv3-digits] [--runtime openvino]`.

First the cause of what does not: how much slower a network's first runs are after another network has run. Then eight
whole networks are measured in four ways, each in a process of its own, each way several times:

    plan    in the probe, among all blocks and other networks of the space
    eight   in the probe, a verification of these eight
    alone   in the probe, one network and the references
    loop    no probe: the median run of a loop of one second, the network alone

For each two of these measurements the output has the median |difference| over the eight networks, and the bias: the
median difference. `scale` compares ratios to the references on one scale, as verified latencies are compared with the
latency model of a device. `ms` compares the milliseconds of the probe with the loop's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from service.devices import probe
from supernet.export.probe_plan import ProbeModel, network_model, network_plan, probe_plan, write_plan
from supernet.families import preset
from supernet.space import SearchSpace

NETWORKS = 8
LOOP_SECONDS = 1.0
SHOWN_RUNS = 6
VISITS = 25
Latencies = dict[str, tuple[float, float]]  # by network: the ratio to the references, and ms


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        print(_loop(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spaces", nargs="+", default=["mbv3-cifar", "mbv3-digits"])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="of each way")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    runtime = probe.make_runtime(options.runtime, "", options.threads)
    print(f"{runtime}, {options.threads} threads; load average {probe.load_average():.1f} on {probe.cores()} cores")
    for name in options.spaces:
        _compare(preset(name), runtime, options.repeats, options.seed)
    print(f"load average at the end {probe.load_average():.1f}")


def _compare(space: SearchSpace, runtime: probe.Runtime, repeats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    eight = network_plan(space, space.sample(rng, NETWORKS))
    _print_first_runs(space, runtime, eight)
    names = [model.name for model in eight]
    all_models = {model.name: model for model in [*probe_plan(space, np.random.default_rng(0)), *eight]}
    found: list[tuple[str, Latencies]] = []
    with tempfile.TemporaryDirectory(prefix="supple-agreement-") as text:
        folder = Path(text)
        write_plan(folder / "plan.zip", space, [all_models[i] for i in rng.permutation(list(all_models))])
        write_plan(folder / "eight.zip", space, eight)
        for model in eight:
            write_plan(folder / f"{model.name}.zip", space, [model])
        started = time.monotonic()
        for _ in range(repeats):
            found.append(("plan", _measure(folder / "plan.zip", runtime)))
            found.append(("eight", _measure(folder / "eight.zip", runtime)))
            alone: Latencies = {}
            for name in names:
                alone |= _measure(folder / f"{name}.zip", runtime)
            found.append(("alone", alone))
            found.append(("loop", {name: (0.0, _measure_loop(folder / "eight.zip", name, runtime)) for name in names}))
    print(f"\n{space.name}: {NETWORKS} networks, {min(found[0][1][n][1] for n in names):.3f} to ", end="")
    print(f"{max(found[0][1][n][1] for n in names):.3f} ms; {repeats} times each; {time.monotonic() - started:.0f} s")
    for (one, first), (other, second), unit, column in _pairs(found):
        differences = [100 * (first[name][column] / second[name][column] - 1) for name in names]
        print(
            f"  {one:>5} against {other:<5} by {unit:<5}  median |difference| "
            f"{statistics.median(map(abs, differences)):4.2f} %, bias {statistics.median(differences):+5.2f} %, "
            f"largest {max(map(abs, differences)):5.2f} %"
        )


def _pairs(
    found: Sequence[tuple[str, Latencies]],
) -> Iterator[tuple[tuple[str, Latencies], tuple[str, Latencies], str, int]]:
    for one, other in combinations(found, 2):
        is_loop = "loop" in (one[0], other[0])
        yield one, other, "ms" if is_loop else "scale", int(is_loop)


def _print_first_runs(space: SearchSpace, runtime: probe.Runtime, eight: Sequence[ProbeModel]) -> None:
    """How much slower than in a loop the first runs are after another network has run; the median over visits."""
    shown = {"smallest": space.smallest(), "largest": space.largest()}
    runs = {
        name: runtime.load(model.onnx(), 1, model.input_shape).run
        for name, model in [
            *((model.name, model) for model in eight),
            *((name, network_model(space, arch)) for name, arch in shown.items()),
        ]
    }
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    rng = np.random.default_rng(0)
    for _ in range(VISITS):
        for name in rng.permutation(list(runs)):
            row = []
            for _ in range(40):
                start = time.perf_counter_ns()
                runs[name]()
                row.append((time.perf_counter_ns() - start) / 1e6)
            times[name].append(row)
    for name in shown:
        by_run = np.median(np.array(times[name]), 0)
        steady = float(np.median(by_run[20:]))
        excess = " ".join(f"{100 * (ms / steady - 1):+.0f}" for ms in by_run[:SHOWN_RUNS])
        print(f"{space.name}, {name}, {steady:.4f} ms in a loop; its first runs after another network: {excess} %")


def _measure(plan: Path, runtime: probe.Runtime) -> Latencies:
    """The probe's answer for each whole network of a plan, in a process of its own."""
    output = plan.with_suffix(".json")
    command = [sys.executable, probe.__file__, str(plan), "-o", str(output)]
    command += ["--runtime", runtime.name, "--threads", str(runtime.threads)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    result = json.loads(output.read_text())
    return {
        name: (one["ratio"], one["ratio"] * result["reference_ms"])
        for name, one in result["measurements"].items()
        if name.startswith("network-")
    }


def _measure_loop(plan: Path, name: str, runtime: probe.Runtime) -> float:
    command = [sys.executable, "-m", "benchmarks.agreement", "--loop", str(plan), name, str(runtime.threads)]
    environment = {**os.environ, "RUNTIME": runtime.name}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def _loop(plan: Path, name: str, threads: int) -> float:
    """Median run, ms, of a network in a loop, without the probe's way of measuring."""
    runtime = probe.make_runtime(os.environ["RUNTIME"], "", threads)
    model = next(model for model in probe.Plan(plan).models if model.name == name)
    run, times = runtime.load(model.load(), 1, model.shape).run, []
    end = time.perf_counter() + LOOP_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    main()
