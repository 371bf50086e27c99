"""Training: `supple train`, `fit`, `rank` and `finetune`."""

import json
from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.bundles.paths import check_folder
from service.cli.commands.arguments import ArchOption, BundleArgument, DataRootOption, open_bundle
from service.cli.console import JsonOption, err, out, print_json
from service.cli.inputs import check_database, read_arch, read_settings
from service.cli.register import register_bundle
from service.errors import InputError
from supernet.files import write_atomically

training = typer.Typer()


class KindOption(StrEnum):
    """The kinds of accuracy predictor."""

    ridge = "ridge"
    kernel = "kernel"
    mlp = "mlp"


@training.command()
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
        register_bundle(bundle.path, image_folder(settings, data_root))


@training.command()
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

    opened = open_bundle(bundle)
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


@training.command()
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

    opened = open_bundle(bundle)
    output = output or opened.beside(".ranking")
    check_folder("--output", output)
    with Bar(err) as bar:
        report = rank_bundle(opened, output, nets=nets, epochs=epochs, seed=seed, data_root=data_root, progress=bar)
    write_atomically(output / "ranking.json", json.dumps(report, indent=1).encode())
    write_atomically(output / "ranking.svg", ranking_svg(report).encode())
    print_json(report) if as_json else show_ranking(report, out)
    err.print(f"{output / 'ranking.json'} and {output / 'ranking.svg'} written")


@training.command()
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

    opened = open_bundle(bundle)
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
