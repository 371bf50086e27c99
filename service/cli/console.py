"""Where commands print to."""

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def print_json(data: Any) -> None:
    """Print JSON for machines."""
    sys.stdout.write(json.dumps(data, indent=1, allow_nan=False) + os.linesep)
