"""The options that follow from the table of costs."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.costs import COSTS, CostKind, read_limits

if TYPE_CHECKING:
    CostOption = str
else:
    CostOption = StrEnum("CostOption", [kind.name for kind in COSTS])


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `limits`, limits by cost, by one option for each cost."""
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += [_option(kind) for kind in COSTS] if parameter.name == "limits" else [parameter]

    @wraps(command)
    def with_limits(**values: Any) -> None:
        texts = {kind.name: values.pop(kind.field) for kind in COSTS}
        latency = texts.pop("latency_ms") or []
        command(**values, limits=read_limits(texts, latency))

    with_limits.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_limits


def _option(kind: CostKind) -> inspect.Parameter:
    text = f"Hard limit on {kind.label}: {kind.description}, as in {kind.example}"
    annotation: Any = Annotated[str | None, typer.Option(kind.flag, help=f"{text}.")]
    if kind.build is None:
        help_text = f"{text}; again for each other device, as in phone={kind.example}."
        annotation = Annotated[list[str] | None, typer.Option(kind.flag, metavar="[DEVICE=]MS", help=help_text)]
    return inspect.Parameter(kind.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
