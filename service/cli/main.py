"""The `supple` command. Each command reads its input, calls one function, and prints what it returns."""

import io
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from service import logs
from service.bundles.paths import check_folder, check_input, check_output
from service.cli.console import JsonOption, err, out, print_json
from service.cli.inputs import (
    check_database,
    current_database,
    explain,
    naming_database,
    read_arch,
    read_json,
    read_numbers,
    read_settings,
    read_sizes,
)
from service.cli.keys import keys
from service.cli.options import CostOption, SearchOptions, search_options
from service.cli.storage import storage
from service.errors import InputError
from service.quantities import fraction
from service.settings import Settings
from supernet.costs.architecture import of_architecture
from supernet.files import write_atomically

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(keys, name="keys")
app.add_typer(storage)

log = logging.getLogger("supple")

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
ArchOption = Annotated[
    str,
    typer.Option(
        "--arch",
        help="An architecture: JSON, a file of JSON (also a search's answer), an id, or `largest`, `smallest`.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(help="Folder of images like the training images, for the recalibration of batch norm."),
]
NetworksOption = Annotated[
    int | None, typer.Option(min=1, help="So many whole networks alone, the most informative ones, and no blocks.")
]
DataRootOption = Annotated[Path, typer.Option(help="Folder for downloaded datasets and the results of checks.")]
ChildOption = Annotated[bool, typer.Option("--child", hidden=True, help="End when standard input closes.")]


class BatchNormOption(StrEnum):
    """Whose statistics the batch norms of an exported network have: the subnet's own, or the supernet's."""

    recalibrated = "recalibrated"
    stored = "stored"


class WeightsOption(StrEnum):
    """Which weights of a subnet are exported: the supernet's, or those of a network that was trained alone."""

    inherited = "inherited"
    fine_tuned = "fine-tuned"
    from_scratch = "from-scratch"


class EvaluateOption(StrEnum):
    """What ranks the architectures of a search."""

    predicted = "predicted"
    inherited = "inherited"


class MetricOption(StrEnum):
    """What a search can measure."""

    accuracy = "accuracy"
    top5 = "top5"
    f1_macro = "f1_macro"
    log_likelihood = "log_likelihood"


class KindOption(StrEnum):
    """The kinds of accuracy predictor."""

    ridge = "ridge"
    kernel = "kernel"
    mlp = "mlp"


def main() -> None:
    """Run the command line. Exit code 2: bad input. Exit code 1: the machine prevents it (a full disk, no network)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for what it lacks
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:
        explanation = explain(error)
        if explanation is None:
            raise
        message, code = explanation
        if logs.are_json():
            log.critical(message)
            sys.exit(code)
        err.print(f"[bold red]error:[/] {escape(message)}", highlight=False)
        sys.exit(code)


def print_version(requested: bool) -> None:
    """The callback of --version."""
    if requested:
        out.print(f"supple {version('supple')}", highlight=False)
        raise typer.Exit


@app.callback()
def supple(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train one weight-sharing supernet once; then ask which network fits a budget on a device."""


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop at the end instead of serving on.")] = False,
    directory: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path(
        "supple-data/demo"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 8000,
) -> None:
    """Run everything on this machine: train on digits, measure this CPU, search, verify, download ONNX, serve."""
    from service.cli.demo import run_demo

    run_demo(directory, port, once=once, out=out)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/digits.yaml.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for checkpoints and the bundle; not for --dry-run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest intact checkpoint.")] = False,
    register: Annotated[
        bool, typer.Option("--register", help="Then register the bundle, as `supple register` does.")
    ] = False,
    data_root: DataRootOption = Path("data"),
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the images, take a few steps, and print what the run would do and cost."),
    ] = False,
) -> None:
    """Train a supernet, fit its accuracy predictor and write a bundle.

    On several GPUs or machines: torchrun --nproc-per-node N --no-python supple train CONFIG -o OUTPUT
    """
    from service.bundles.config import read_config
    from service.bundles.dry_run import dry_run
    from service.bundles.images import image_folder
    from service.bundles.train import finished_bundle, train_bundle
    from service.cli.display import show_corners, show_dataset, show_forecast, watch
    from supernet.bundle import Bundle
    from supernet.training.distributed import is_first

    settings = read_config(config)
    if dry:
        steps = dry_run(
            settings,
            data_root=data_root,
            show_dataset=lambda dataset: show_dataset(dataset, out),
            show_forecast=lambda forecast: show_forecast(forecast, out),
        )
        watch(steps, err)
        return
    if output is None:
        raise InputError("`output` is missing; name the folder for checkpoints and the bundle", "output")
    check_folder("--output", output)
    steps = train_bundle(
        settings, output, resume=resume, data_root=data_root, show_dataset=lambda dataset: show_dataset(dataset, err)
    )
    if not is_first():
        deque(steps, maxlen=0)
        return
    if register:
        check_database(read_settings())
    finished = finished_bundle(settings, output)
    watch(steps, err)
    if finished is not None:
        out.print(f"{finished.path} is already the finished bundle of {config}")
    bundle = Bundle.open(output / "bundle")
    show_corners(bundle.report, out)
    out.print(f"bundle {bundle.hash[:16]} in {bundle.path}")
    if register:
        _register(bundle.path, image_folder(settings, data_root))


@app.command()
def fit(
    bundle: BundleArgument,
    subnets: Annotated[int, typer.Option(min=10, help="How many subnets to measure, spread over FLOPs.")] = 1_000,
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Spread only a first part of them; measure the others in this many rounds, near the front of accuracy "
            "and FLOPs as what was measured so far predicts it.",
        ),
    ] = 0,
    kind: Annotated[
        KindOption | None,
        typer.Option(
            help="The kind of predictor: ridge, kernel (a Gaussian process) or mlp. By default, compare them."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of subnets and images, and of the fit.")] = 0,
    images: Annotated[
        str | None,
        typer.Option(
            help="For an imported or converted bundle: a folder with a folder of images for each class, none of which "
            "it was trained on."
        ),
    ] = None,
    holdout: Annotated[int, typer.Option(min=1, help="How many of --images to measure subnets on.")] = 500,
    calibration_images: Annotated[
        int, typer.Option(min=2, help="How many of --images to recalibrate batch norm with, at most.")
    ] = 1_000,
    data_root: DataRootOption = Path("data"),
    refit: Annotated[
        bool,
        typer.Option(
            help="Measure nothing: fit on the predictor's pairs and what searches with `--evaluate inherited` measured "
            "since. The new predictor is kept if its error near the front, on held-out pairs, is no worse."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure subnets of a bundle and fit its accuracy predictor again. Earlier measurements are used again."""
    from service.bundles.fit import fit_bundle, refit_bundle
    from service.bundles.images import add_images
    from service.cli.display import Bar, show_fitted, show_refit

    opened = _open(bundle)
    if refit:
        with err.status("fitting and comparing predictors"):
            fitted, result = refit_bundle(opened, seed=seed)
        if as_json:
            print_json(result.to_json())
        else:
            show_refit(result, out)
        if result.is_kept:
            err.print(f"bundle {fitted.hash[:16]} in {fitted.path}; if a service has it, register it again")
        return
    with Bar(err) as bar:
        if images is not None:
            opened = add_images(
                opened,
                images,
                holdout=holdout,
                calibration=calibration_images,
                seed=seed,
                data_root=data_root,
                progress=bar,
            )
        fitted = fit_bundle(
            opened,
            subnets=subnets,
            rounds=rounds,
            kind=None if kind is None else kind.value,
            seed=seed,
            progress=bar,
        )
    if as_json:
        print_json(fitted.report["predictor"] | {"learning_curve": fitted.report["learning_curve"]})
    else:
        show_fitted(fitted.report, out)
    err.print(f"bundle {fitted.hash[:16]} in {fitted.path}; if a service has it, register it again")


@app.command()
def rank(
    bundle: BundleArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for checkpoints, report and plot (default BUNDLE.ranking)."),
    ] = None,
    nets: Annotated[int, typer.Option(min=3, help="How many subnets to train alone, from scratch, twice each.")] = 20,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a subnet trained alone (default: as in the first phase).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of subnets.")] = 0,
    data_root: DataRootOption = Path("data"),
    as_json: JsonOption = False,
) -> None:
    """Check whether inherited accuracy ranks subnets as training them alone does.

    Trains one supernet with uniform and one with strictly fair sampling, by the bundle's configuration, and then each
    subnet alone. An interrupted run continues in the same folder.
    """
    from service.bundles.rank import rank_bundle
    from service.cli.display import Bar, show_ranking
    from service.cli.plot import ranking_svg
    from supernet.files import write_atomically

    opened = _open(bundle)
    output = output or opened.beside(".ranking")
    check_folder("--output", output)
    with Bar(err) as bar:
        report = rank_bundle(opened, output, nets=nets, epochs=epochs, seed=seed, data_root=data_root, progress=bar)
    write_atomically(output / "ranking.json", json.dumps(report, indent=1).encode())
    write_atomically(output / "ranking.svg", ranking_svg(report).encode())
    print_json(report) if as_json else show_ranking(report, out)
    err.print(f"{output / 'ranking.json'} and {output / 'ranking.svg'} written")


@app.command()
def finetune(
    bundle: BundleArgument,
    arch: ArchOption,
    epochs: Annotated[int, typer.Option(min=1, help="How many epochs to train.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for checkpoints, weights and ONNX (default in BUNDLE.finetuned)."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights instead of the supernet's.")
    ] = False,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Highest learning rate (default: the last phase's; from scratch, the first phase's)."),
    ] = None,
    distillation: Annotated[
        float | None,
        typer.Option(help="Weight of the soft labels of the bundle's largest network (default 1; from scratch, 0)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of images, and of random weights.")] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the bundle's images, if it is not where the bundle says.")
    ] = None,
    data_root: DataRootOption = Path("data"),
    as_json: JsonOption = False,
) -> None:
    """Train a subnet further as a network of its own, and write its weights and its ONNX file.

    It trains by the bundle's recipe on the bundle's training images, and is scored on the held-out images before and
    after. The bundle gets the network beside the supernet. An interrupted run continues in the same folder.
    """
    from service.bundles.finetune import NETWORK, ONNX, Plan, fine_tune
    from service.cli.display import Bar, show_stand_alone
    from supernet.bundle import stand_alone_name
    from supernet.bundle_writing import with_stand_alone

    opened = _open(bundle)
    subnet = read_arch(arch, opened.space)
    plan = Plan(epochs, from_scratch, learning_rate, distillation, seed)
    name = stand_alone_name(opened.space, subnet, plan.training)
    output = output or opened.beside(".finetuned") / name
    check_folder("--output", output)
    with Bar(err) as bar:
        card = fine_tune(
            opened,
            subnet,
            plan,
            output,
            images=None if images is None else str(images),
            data_root=data_root,
            progress=bar,
        )
    if opened.stand_alone.get(name) != card:
        opened = with_stand_alone(opened, name, (output / NETWORK).read_bytes(), card)
    print_json(card) if as_json else show_stand_alone(card, out)
    err.print(f"{output / ONNX} and {output / NETWORK} written; bundle {opened.hash[:16]} in {opened.path} has {name}")


@app.command("import-ofa")
def import_ofa(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the bundle.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A published supernet: FILE.pth.")] = None,
    predictor: Annotated[Path | None, typer.Option(help="The published accuracy predictor: FILE.pth.")] = None,
    latency_tables: Annotated[
        Path | None,
        typer.Option(
            help="Folder of files RESOLUTION_lookup_table.yaml, or a file like ProxylessNAS's mobile_trim.yaml."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="A name for the device of the latency tables.")] = None,
    width: Annotated[
        str | None, typer.Option(help="Width of the supernet, 1.0 or 1.2. A checkpoint shows its width.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="The search space instead of its width, such as mbv3-imagenet-w1.2-r25 or resnet50d-imagenet."
        ),
    ] = None,
    calibration: CalibrationOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle.")] = None,
) -> None:
    """Import files that Once-for-All published as a bundle: a supernet, its predictor, latency tables of a device."""
    from service.bundles.import_ofa import abilities, import_once_for_all

    for option, path in (("--checkpoint", checkpoint), ("--predictor", predictor)):
        if path is not None:
            check_input(option, path)
    with err.status("importing"):
        bundle = import_once_for_all(
            output,
            checkpoint=checkpoint,
            predictor=predictor,
            latency_tables=latency_tables,
            device=device,
            width=width,
            space=space,
            calibration=calibration,
            name=name,
        )
    out.print(f"bundle {bundle.hash[:16]} ({bundle.name}) in {bundle.path}")
    out.print("\n".join(abilities(bundle)), markup=False, highlight=False)


@app.command()
def convert(
    factory: Annotated[
        str,
        typer.Argument(metavar="MODULE:FACTORY", help="A function that returns the network, as in mine.nets:small."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the bundle.")],
    weights: Annotated[
        Path | None, typer.Option(help="The network's state dict: FILE.safetensors, or as torch saves it.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the network's images, pixels.")] = 224,
    resolutions: Annotated[
        str | None, typer.Option(help="Smaller images that subnets may read, as in 128,192 (from half of the size on).")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of each channel that the network expects, as in 0.5,0.5,0.5 (ImageNet's).")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel (ImageNet's).")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file of the classes' names, one on each line, in the order of the logits.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle (the factory's).")] = None,
) -> None:
    """Turn a network that you trained into a bundle whose largest subnet it is, to train, search and export from.

    The factory may lie in the working directory. Only this command imports it: the bundle holds records, not code.
    """
    from service.bundles.convert import convert_network
    from service.cli.display import show_conversion

    for option, path in (("--weights", weights), ("--classes", classes)):
        if path is not None:
            check_input(option, path)
    with err.status("converting"):
        converted = convert_network(
            factory,
            output,
            weights=weights,
            image_size=image_size,
            resolutions=read_sizes("--resolutions", resolutions),
            mean=read_numbers("--mean", mean),
            std=read_numbers("--std", std),
            classes=classes,
            name=name,
        )
    show_conversion(converted.bundle, out)
    out.print(f"bundle {converted.bundle.hash[:16]} in {converted.bundle.path}")


@app.command()
def describe(
    what: Annotated[str, typer.Argument(metavar="SPACE_OR_BUNDLE", help="A preset's name or a bundle's folder.")],
    arch: ArchOption,
    as_json: JsonOption = False,
) -> None:
    """Print the exact costs of one architecture, at any resolution that is a multiple of 4."""
    from service.cli.display import show_costs
    from supernet.families import preset, presets

    bundle = _open(Path(what)) if what not in presets() and Path(what).exists() else None
    space = bundle.space if bundle else preset(what)
    subnet = read_arch(arch, space)
    costs = of_architecture(space, subnet, bundle.classes if bundle else None)
    identity = space.id(subnet) if subnet.resolution in space.resolutions else None
    described = {"id": identity, "arch": subnet.to_json(), **costs}
    print_json(described) if as_json else show_costs(described, [gene.name for gene in space.block_genes], out)


@app.command()
def plan(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Zip file to write the plan to.")],
    networks: NetworksOption = None,
    seed: Annotated[int, typer.Option(help="Draws the networks.")] = 0,
) -> None:
    """Write what a device measures: take it there, run the one-file probe, and bring its result back."""
    from service.cli.display import Bar
    from service.devices.measure import make_plan

    check_output("--output", output)
    space = _open(bundle).space
    with Bar(err) as bar:
        make_plan(space, output, networks=networks, seed=seed, progress=partial(bar, "write networks"))
    out.print(f"{output} written. On the device: python probe.py {output.name} -o measurements.json")


@app.command()
def probe(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle's folder.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write the measurements to.")] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, openvino, ncnn or torch.")] = "onnxruntime",
    provider: Annotated[str, typer.Option(help="What executes the networks, such as CUDA; by default the CPU.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads that run a network; at most the cores.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="Measure for about this many seconds.")] = None,
    networks: NetworksOption = None,
    memory: Annotated[bool, typer.Option("--memory", help="Measure the peak memory of whole networks, too.")] = False,
    imported: Annotated[
        Path | None, typer.Option("--import", help="Post this file, which a probe wrote elsewhere; measure nothing.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="Address of a service to post the measurements to.")] = None,
    device: Annotated[str | None, typer.Option(help="Name of the measured machine at that service.")] = None,
) -> None:
    """Measure latencies on this machine: every block of the bundle's space and some whole networks.

    A measurement that is cut off continues when the same command runs again.
    """
    from service.cli.display import Bar, warn_of_measurements
    from service.cli.latency_card import latency_card
    from service.client import Client
    from service.devices.measure import measure_machine
    from service.devices.probe import make_runtime

    if (server is None) != (device is None):
        raise InputError("--server and --device belong together: --device is the name of this machine at the service")
    if imported is not None:
        if server is None or device is None or bundle or output:
            raise InputError("--import posts a file: it needs --server and --device, and neither BUNDLE nor --output")
        measured = read_json("--import", imported)
    else:
        if bundle is None or output is None:
            raise InputError("name the BUNDLE to measure and --output, or a file to --import")
        check_output("--output", output)
        space, chosen = _open(bundle).space, make_runtime(runtime, provider, threads)
        if server and device:
            with Client(server, os.environ.get("SUPPLE_KEY")) as client:
                client.check_measurable(device, space.to_json(), threads=threads, batch_size=batch_size)
        with Bar(err) as bar:
            measured = measure_machine(
                space,
                output,
                runtime=chosen,
                batch_size=batch_size,
                seconds=seconds,
                networks=networks,
                memory=memory,
                progress=bar,
            )
        out.print(
            f"{len(measured['blocks'])} blocks and {len(measured['networks'])} networks measured; {output} written"
        )
        warn_of_measurements(measured, err)
    if server and device:
        with Client(server, os.environ.get("SUPPLE_KEY")) as client:
            card = client.post_measurements(device, measured)["card"]
        out.print(f"latency model of {device} fitted. {latency_card(card)}", highlight=False)


@app.command("import-latencies")
def import_latencies(
    bundle: BundleArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV or JSON tables, or profiles of Qualcomm AI Hub.")
    ],
    device: Annotated[str, typer.Option(help="Name of the device that they were measured on.")],
    runtime: Annotated[str, typer.Option(help="The runtime that measured, for people.")] = "imported latencies",
    threads: Annotated[int, typer.Option(help="Threads that ran a network.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Images per run. Latencies are those of the whole batch.")] = 1,
    plan: Annotated[Path | None, typer.Option(help="The plan whose networks the files name.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave rows out that cannot be used.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a measurements file, and leave the bundle as it is.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Post to a service at this address, and leave the bundle as it is.")
    ] = None,
) -> None:
    """Make a device's latency model from latencies of whole networks that others measured.

    The device joins the bundle, unless --output or --server says otherwise.
    """
    from service.bundles.import_latencies import described_device, import_measurements, store_in_bundle
    from service.cli.latency_card import latency_card
    from service.client import Client

    described = described_device(device, runtime, threads, batch_size)
    for file in [*files, *([plan] if plan else [])]:
        check_input("FILE", file)
    if output:
        check_output("--output", output)
    opened = _open(bundle)
    measured, model, read = import_measurements(opened, files, described, plan=plan, skip=skip)
    for line in read.skipped:
        err.print(f"left out: {line}", highlight=False, markup=False)
    card: Mapping[str, Any] = model.card
    if server:
        with Client(server, os.environ.get("SUPPLE_KEY")) as client:
            client.check_measurable(device, opened.space.to_json(), threads=threads, batch_size=batch_size)
            card = client.post_measurements(device, measured)["card"]
    if output:
        write_atomically(output, json.dumps(measured, indent=1, allow_nan=False).encode())
    if not server and not output:
        store_in_bundle(opened, described, model)
    out.print(f"{len(read.networks)} networks of {device}, {read.repeated} more rows of the same ones", highlight=False)
    out.print(latency_card(card), highlight=False)


@app.command()
@search_options
def search(
    bundle: BundleArgument,
    *,
    options: SearchOptions,
    minimise: Annotated[
        CostOption | None, typer.Option(help="The cost to minimise at --min-accuracy, instead of maximising accuracy.")
    ] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="The accuracy that --minimise has to reach, as in 78% or 0.78.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="How to search (default: exact where that proves its answer, otherwise evolution)."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Search at most so long. An answer that this cuts short depends on the machine."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal answers.")] = 0,
    evaluate: Annotated[
        EvaluateOption,
        typer.Option(help="Rank by predicted accuracy, or measure subnets on the bundle's held-out images."),
    ] = EvaluateOption.predicted,
    metric: Annotated[
        MetricOption, typer.Option(help="What --evaluate inherited measures, and the search maximises.")
    ] = MetricOption.accuracy,
    as_json: JsonOption = False,
) -> None:
    """Search a bundle under hard limits, without a server."""
    from evolution.refusal import Refused
    from service.bundles.search import search_bundle
    from service.cli.display import Bar, show_answer, show_refused
    from service.searches.answer import refuse

    opened = _open(bundle)
    genes = [gene.name for gene in opened.space.block_genes]
    try:
        with Bar(err) as bar:
            answer = search_bundle(
                opened,
                **options,
                minimise=None if minimise is None else str(minimise),
                min_accuracy=None if min_accuracy is None else fraction(min_accuracy),
                seconds=seconds,
                seed=seed,
                strategy=strategy,
                evaluate=evaluate.value,
                metric=metric.value,
                progress=partial(bar, "measure subnets"),
            )
    except Refused as error:
        refused = refuse(error)
        if as_json:
            print_json(refused.problem_document())
        else:
            show_refused(refused.problem_document(), genes, err)
        raise refused from error
    print_json(answer) if as_json else show_answer(answer, genes, out)


@app.command()
@search_options
def compare(
    bundle: BundleArgument,
    *,
    options: SearchOptions,
    seeds: Annotated[int, typer.Option(min=1, help="How many searches per strategy.")] = 10,
    local_search: Annotated[
        bool,
        typer.Option(
            "--local-search/--no-local-search", help="End each search with the local search, as `supple search` does."
        ),
    ] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="SVG file for a plot of best accuracy against evaluations.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare all search strategies on a bundle at equal evaluations, against random search."""
    from service.bundles.compare import compare_bundle
    from service.cli.display import Bar, show_compared
    from service.cli.plot import comparison_svg
    from supernet.files import write_atomically

    if output is not None:
        check_output("--output", output)
    with Bar(err) as bar:
        compared = compare_bundle(
            _open(bundle),
            **options,
            seeds=seeds,
            local_search=local_search,
            progress=lambda run, done, total: bar("searches", done, total, run.strategy),
        )
    if output is not None:
        write_atomically(output, comparison_svg(compared).encode())
    print_json(compared) if as_json else show_compared(compared, out)


@app.command()
def export(
    bundle: BundleArgument,
    arch: ArchOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="ONNX file to write.")],
    batch_norm: Annotated[
        BatchNormOption, typer.Option(help="Statistics: the subnet's own, recalibrated, or the supernet's, as stored.")
    ] = BatchNormOption.recalibrated,
    weights: Annotated[
        WeightsOption, typer.Option(help="The supernet's weights, or what `supple finetune` made of them.")
    ] = WeightsOption.inherited,
    calibration: CalibrationOption = None,
) -> None:
    """Extract a subnet, recalibrate it and write it as ONNX, after a check that onnxruntime agrees with torch.

    A network that `supple finetune` trained is written as it is: its batch norms were trained with it.
    """
    from service.bundles.export import export_stand_alone, export_subnet_of
    from service.bundles.import_ofa import calibration_images
    from supernet.bundle import Training

    check_output("--output", output)
    opened = _open(bundle)
    subnet = read_arch(arch, opened.space)
    if calibration is not None and batch_norm is BatchNormOption.stored:
        raise InputError(f"--calibration is {calibration}, but --batch-norm stored recalibrates nothing; omit one")
    if weights is not WeightsOption.inherited:
        if calibration is not None or batch_norm is BatchNormOption.stored:
            raise InputError(f"--weights is {weights}, which needs no --calibration and no --batch-norm; omit them")
        training: Training = "fine-tuned" if weights is WeightsOption.fine_tuned else "from-scratch"
        exported = export_stand_alone(opened, subnet, training, output)
    else:
        images = None if calibration is None else calibration_images(calibration, opened.space)
        exported = export_subnet_of(opened, subnet, output, batch_norm=batch_norm.value, calibration=images)
    out.print(f"{output} written: {exported['bytes']:,} bytes, SHA-256 {exported['sha256']}")
    out.print(f"largest difference between onnxruntime and torch: {exported['difference']:.2g}")


@app.command()
def register(
    bundle: BundleArgument,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of its training images, which workers can see; needed to fine-tune in the service."),
    ] = None,
) -> None:
    """Copy a bundle into the store and register it as a supernet of the service."""
    _register(bundle, images)


def _register(bundle: Path, images: Path | None) -> None:
    from service.context import store_of
    from service.supernets.register import register_supernet

    if images is not None and not images.is_dir():
        raise InputError(f"`images` is {images}, which is no folder; name the folder of the training images", "images")
    settings = read_settings()
    with current_database(settings) as database, database.writing() as session:
        supernet = register_supernet(session, store_of(settings), bundle, images)
        out.print(f"supernet {supernet.id} ({supernet.name}) registered")
        if supernet.images is not None:
            out.print(f"its candidates can be fine-tuned on the images in {supernet.images}", highlight=False)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: SUPPLE_HOST, else 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on (default: SUPPLE_PORT, else 8000).")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=256, help="How many workers to run in child processes.")] = 1,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="The same as --workers 0.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve without API keys on any address.")] = False,
    child: ChildOption = False,
) -> None:
    """Serve the HTTP API and the pages, with workers in child processes. One that dies is started again."""
    from service.cli.serve import serve as run_server
    from service.processes import end_with_parent

    if child:
        end_with_parent()
    settings = _begin_service(host=host, port=port, insecure=insecure or None)
    run_server(settings, workers=0 if no_worker else workers)


@app.command()
def worker(
    worker_id: Annotated[
        str | None,
        typer.Option("--id", help="Name of this worker, unique among running workers (default: SUPPLE_WORKER_ID)."),
    ] = None,
    child: ChildOption = False,
) -> None:
    """Run one more worker, which does long searches, verifications and exports."""
    from service.processes import end_with_parent
    from service.worker import run_worker

    if child:
        end_with_parent()
    run_worker(_begin_service(worker_id=worker_id))


def _begin_service(**options: Any) -> Settings:
    """The settings of a process of the service, with logs and traces set up and the database checked."""
    from service.telemetry import set_up_telemetry

    settings = read_settings(**options)
    logs.set_up_logs(settings.log_format, settings.log_level)
    set_up_telemetry()
    check_database(settings)
    return settings


@db.command("upgrade")
def upgrade() -> None:
    """Create the database, or bring it to this release's version."""
    from service.upgrade import upgrade as run_upgrade

    settings = read_settings()
    settings.data_directory.mkdir(parents=True, exist_ok=True)
    with naming_database(settings):
        run_upgrade(settings.database)
    out.print("the database is at this release's version")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine, the settings, the database, the store, workers and the service. Exit code 1: one fails."""
    from service.cli.display import show_check
    from service.cli.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            show_check(check, out)
    if as_json:
        print_json([asdict(check) for check in checks])
    if any(check.status == "failure" for check in checks):
        raise typer.Exit(1)


def _open(path: Path) -> Any:
    from supernet.bundle import Bundle

    return Bundle.open(path)
