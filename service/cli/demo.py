"""`supple demo`: everything on one machine, from training to a served ONNX file."""

import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pydantic import SecretStr
from rich.console import Console

from service import processes
from service.bundles.config import read_config
from service.bundles.train import finished_bundle, train_bundle
from service.cli.display import (
    Bar,
    architecture_lines,
    predicted_accuracy,
    show_corners,
    tau,
    warn_of_measurements,
    watch,
)
from service.client import Client
from service.context import store_of
from service.devices import probe
from service.devices.measure import measure_machine
from service.settings import Settings, sqlite_url
from service.storage.database import Database
from service.supernets.register import register_supernet
from service.upgrade import upgrade
from supernet.bundle import Bundle
from supernet.data import load
from supernet.export.parity import run_onnx
from supernet.space import SearchSpace

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits.yaml"
PROBE_SECONDS = 25.0
START_SECONDS = 60.0  # how long the service may take to answer
STOP_SECONDS = 30.0  # how long the service may take to stop
FLOPS_SHARE = 0.4  # the limit on FLOPs, as a share of the largest subnet's FLOPs
SHOWN_DIGITS = 10


def run_demo(
    directory: Path,
    port: int,
    *,
    once: bool,
    out: Console,
    config: Path = CONFIG,
    probe_seconds: float = PROBE_SECONDS,
) -> None:
    """Train, measure, migrate, register, serve, search, verify, download, classify; then stop if `once`, or serve on.

    Uses results of an earlier run in `directory` again and says so.

    Raises:
        ValueError: a step refused its input. SuppleError: the port is taken, or the service refused a request or did
            not answer in time. OSError: the disk is full.
    """
    port = port or processes.free_port()
    processes.check_port("127.0.0.1", port)
    started = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    out.rule("1. train one supernet, once")
    bundle = _bundle(directory, config, out)
    out.rule("2. measure this machine")
    device, measured = _measurements(directory, bundle.space, probe_seconds, out)
    out.rule("3. database, registration, service")
    settings = demo_settings(directory, port)
    upgrade(settings.database)
    database = Database(settings.database)
    with database.writing() as session:
        supernet = register_supernet(session, store_of(settings), bundle.path).id
    database.close()
    out.print(f"database {settings.database} at this release's version, supernet {supernet} registered")
    with _service(settings) as process, Client(f"http://127.0.0.1:{port}") as client:
        _wait_until_ready(client, process)
        out.print(f"service on http://127.0.0.1:{port}, with one worker beside it")
        card = client.post_measurements(device, measured)["card"]
        out.print(f"latency model of {device}: {_card(card)}")
        out.rule("4. search for a network that fits")
        answer = _search(client, supernet, device, measured, bundle, out)
        out.rule("5. download the network and use it")
        _classify(client, answer["best"], bundle, directory, out)
        out.print(f"[bold]done in {time.perf_counter() - started:.0f} s[/]")
        if not once:
            out.print(
                f"the pages: [link]http://127.0.0.1:{port}[/]   the API: http://127.0.0.1:{port}/docs   stop: Ctrl-C"
            )
            _serve_on(process)


def demo_settings(directory: Path, port: int) -> Settings:
    """Settings that keep everything in the demo's own directory, whatever the environment says."""
    return Settings(
        data_directory=directory,
        database_url=sqlite_url(directory / "supple.db"),
        store=str(directory / "store"),
        host="127.0.0.1",
        port=port,
        api_key=SecretStr(""),
        insecure=False,
        worker_id="",
        log_level="warning",
    )


def _bundle(directory: Path, config_path: Path, out: Console) -> Bundle:
    config = read_config(config_path)
    bundle = finished_bundle(config, directory / "train")
    if bundle is not None:
        out.print(f"using the bundle of an earlier run in {bundle.path}")
    else:
        watch(train_bundle(config, directory / "train", resume=True, data_root=directory), out)
        bundle = Bundle.open(directory / "train" / "bundle")
    show_corners(bundle.report, out)
    return bundle


def _measurements(directory: Path, space: SearchSpace, seconds: float, out: Console) -> tuple[str, dict[str, Any]]:
    """This machine's name as a device, and its measurements, new or from an earlier run."""
    path = directory / "measurements.json"
    if path.is_file():
        measured: dict[str, Any] = json.loads(path.read_text())
        if (measured["space_hash"], measured["host"]) == (space.hash, probe.fingerprint()):
            out.print(f"using the measurements of an earlier run in {path}")
            return _device_name(), measured
    with Bar(out) as bar:
        measured = measure_machine(space, path, runtime=probe.make_runtime(), seconds=seconds, progress=bar)
    out.print(f"{measured['host']['processor']}, {measured['host']['runtime']}, one thread: ", end="")
    out.print(f"{len(measured['blocks'])} blocks and {len(measured['networks'])} whole networks measured")
    warn_of_measurements(measured, out)
    return _device_name(), measured


def _device_name() -> str:
    return f"this-{platform.machine().lower().replace('_', '-')}-cpu"


@contextmanager
def _service(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    process = processes.start("serve", settings)
    try:
        yield process
    finally:
        processes.stop(process, STOP_SECONDS)


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while not client.is_ready():
        if process.poll() is not None:
            raise ValueError(f"the service ended with exit code {process.returncode}; its message is above")
        if time.monotonic() > until:
            raise ValueError(f"the service did not answer within {START_SECONDS:.0f} s")
        time.sleep(0.2)


def _search(
    client: Client, supernet: str, device: str, measured: Mapping[str, Any], bundle: Bundle, out: Console
) -> dict[str, Any]:
    """Search for the best network that is faster than the median measured network and has few FLOPs."""
    space = bundle.space
    largest = sum(record.flops for record in space.operators(space.largest()))
    body = {
        "supernet": supernet,
        "device": device,
        "max_latency_ms": float(f"{median(network['ms'] for network in measured['networks']):.2g}"),
        "max_flops": float(f"{FLOPS_SHARE * largest:.2g}"),
        "verify": True,
        "seed": 0,
    }
    out.print(f"POST /v1/searches {json.dumps(body)}")
    with Bar(out) as bar:
        answer = client.search(body, lambda search: show_progress(search, bar))
    best = answer["best"]
    if best is None:
        raise ValueError(f"the search ended with status {answer['status']}: {json.dumps(answer['problem'])}")
    out.print()
    for line in architecture_lines(best["arch"], [gene.name for gene in space.block_genes]):
        out.print(line)
    out.print()
    views = bundle.manifest["views"]["count"]
    in_views = f", held out, each perturbed in {views} ways" if views else ", held out"
    limits = {limit["cost"]: limit for limit in answer["limits"]}
    rows = [
        ("predicted accuracy", predicted_accuracy(best)),
        ("verified accuracy", f"{best['verified_accuracy']:.4f}   on {best['verified_images']} images{in_views}"),
        ("predicted latency", f"{best['predicted_latency_ms'][device]:.4f} ms"),
        ("measured latency", f"{_measured(best, device)}   limit {limits['latency_ms']['max']:g} ms"),
        ("FLOPs (multiply-adds)", f"{best['flops']:,}   limit {limits['flops']['max']:,.0f}"),
        ("parameters", f"{best['params']:,}"),
    ]
    for name, value in rows:
        out.print(f"{name:<22} {value}", highlight=False)
    out.print(f"{answer['evaluations']:,} architectures evaluated by prediction in {answer['elapsed_ms']:.0f} ms")
    return answer


def show_progress(search: Mapping[str, Any], bar: Bar) -> None:
    """Show the progress of an unfinished search."""
    progress, evaluations = search["progress"], search["request"]["budget"]
    if progress is None:
        bar("search", 0, evaluations, search["status"])
    elif "verified" in progress:
        bar("search", evaluations, evaluations)
        remark = "their latency is measured" if progress["phase"] == "measure" else "finalists on held-out images"
        bar("verify", progress["verified"], progress["finalists"], remark)
    else:
        accuracy = progress["best_predicted_accuracy"]
        bar("search", progress["evaluations"], evaluations, f"best predicted accuracy {accuracy:.3f}")


def _measured(best: Mapping[str, Any], device: str) -> str:
    if best["measured_latency_ms"] is None:
        return f"none: {best['measured_latency_reason']}"
    return f"{best['measured_latency_ms'][device]:.4f} ms"


def _classify(client: Client, best: Mapping[str, Any], bundle: Bundle, directory: Path, out: Console) -> None:
    """Download the ONNX file and classify a few digits of the test split with onnxruntime."""
    data = client.download(best["onnx"])
    path = directory / f"{best['id']}.onnx"
    path.write_bytes(data)
    config = bundle.manifest["config"]
    dataset = load(
        "digits",
        max(bundle.space.resolutions),
        seed=config["schedule"]["seed"],
        holdout=config["dataset"]["holdout"],
        root=directory,
    )
    assert dataset.test is not None
    images = dataset.test[:SHOWN_DIGITS]
    logits = run_onnx(data, bundle.normalization(images.pixels, best["resolution"]).numpy())
    predicted, labels = np.argmax(logits, axis=1).tolist(), images.labels.tolist()
    correct = sum(a == b for a, b in zip(predicted, labels, strict=True))
    out.print(f"{path}: {len(data):,} bytes")
    out.print(f"{SHOWN_DIGITS} test digits  {'  '.join(map(str, labels))}")
    out.print(f"onnxruntime     {'  '.join(map(str, predicted))}   {correct} of {len(labels)} right")


def _card(card: Mapping[str, Any]) -> str:
    error = card["mean_absolute_percentage_error"]
    return f"error {error:.1f} %, Kendall tau {tau(card)} on {card['networks']} whole networks ({card['validation']})"


def _serve_on(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait()
    except KeyboardInterrupt:
        return
