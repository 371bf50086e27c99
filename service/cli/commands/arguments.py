"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer

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


def open_bundle(path: Path) -> Any:
    """The bundle in a folder."""
    from supernet.bundle import Bundle

    return Bundle.open(path)
