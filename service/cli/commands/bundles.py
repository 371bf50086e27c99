"""Bundles from elsewhere, and what is in one: `supple import-ofa`, `convert` and `describe`."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundles.paths import check_input
from service.cli.commands.arguments import ArchOption, CalibrationOption, open_bundle
from service.cli.console import JsonOption, err, out, print_json
from service.cli.inputs import read_arch, read_numbers, read_sizes
from supernet.costs.architecture import of_architecture

bundles = typer.Typer()


@bundles.command("import-ofa")
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


@bundles.command()
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


@bundles.command()
def describe(
    what: Annotated[str, typer.Argument(metavar="SPACE_OR_BUNDLE", help="A preset's name or a bundle's folder.")],
    arch: ArchOption,
    as_json: JsonOption = False,
) -> None:
    """Print the exact costs of one architecture, at any resolution that is a multiple of 4."""
    from service.cli.display import show_costs
    from supernet.families import preset, presets

    bundle = open_bundle(Path(what)) if what not in presets() and Path(what).exists() else None
    space = bundle.space if bundle else preset(what)
    subnet = read_arch(arch, space)
    costs = of_architecture(space, subnet, bundle.classes if bundle else None)
    identity = space.id(subnet) if subnet.resolution in space.resolutions else None
    described = {"id": identity, "arch": subnet.to_json(), **costs}
    print_json(described) if as_json else show_costs(described, [gene.name for gene in space.block_genes], out)
