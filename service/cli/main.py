"""The `supple` command. Each command reads its input, calls one function, and prints what it returns."""

import io
import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.markup import escape

from service import logs
from service.cli.commands.bundles import bundles
from service.cli.commands.devices import devices
from service.cli.commands.keys import keys
from service.cli.commands.searching import searching
from service.cli.commands.serving import demo, serving
from service.cli.commands.storage import storage
from service.cli.commands.training import training
from service.cli.console import err, out
from service.cli.inputs import explain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
for commands in (training, bundles, devices, searching, serving, storage):
    app.add_typer(commands)
app.add_typer(keys, name="keys")

log = logging.getLogger("supple")


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
