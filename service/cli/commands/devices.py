"""Latencies of devices: `supple plan`, `probe` and `import-latencies`."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from service.bundles.paths import check_input, check_output
from service.cli.commands.arguments import BundleArgument, NetworksOption, open_bundle
from service.cli.console import err, out
from service.cli.inputs import read_json
from service.errors import InputError
from supernet.files import write_atomically

devices = typer.Typer()


@devices.command()
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
    space = open_bundle(bundle).space
    with Bar(err) as bar:
        make_plan(space, output, networks=networks, seed=seed, progress=partial(bar, "write networks"))
    out.print(f"{output} written. On the device: python probe.py {output.name} -o measurements.json")


@devices.command()
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
        space, chosen = open_bundle(bundle).space, make_runtime(runtime, provider, threads)
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


@devices.command("import-latencies")
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
    opened = open_bundle(bundle)
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
