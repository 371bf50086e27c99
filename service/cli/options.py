"""The options that `search` and `compare` share. Those that limit a cost follow from the table of costs."""

import inspect
import logging
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from service.costs import COSTS, CostKind, device_costs, read_limits
from service.errors import InputError
from service.quantities import read_choices

log = logging.getLogger("supple")

if TYPE_CHECKING:
    CostOption = str
else:
    CostOption = StrEnum("CostOption", [kind.name for kind in COSTS])


class SearchOptions(TypedDict):
    """What `search_bundle` and `compare_bundle` take alike."""

    limits: dict[str, float]
    device: str | None
    resolution: int | None
    max_resolution: int | None
    choices: dict[str, list[float]]
    evaluations: int | None


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `options`, a `SearchOptions`, by the options of the command line that make it."""
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += _parameters() if parameter.name == "options" else [parameter]

    @wraps(command)
    def with_options(**values: Any) -> None:
        texts = {kind.name: values.pop(kind.field) for kind in COSTS}
        on_devices = {kind.name: texts.pop(kind.name) or [] for kind in device_costs()}
        device, resolution, max_resolution = (values.pop(name) for name in ("device", "resolution", "max_resolution"))
        choices = read_choices(" ".join(values.pop("choices") or []))
        evaluations = _evaluations(values.pop("evaluations"), values.pop("budget"))
        options = SearchOptions(
            limits=read_limits(texts, on_devices),
            device=device,
            resolution=resolution,
            max_resolution=max_resolution,
            choices=choices,
            evaluations=evaluations,
        )
        command(**values, options=options)

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _evaluations(evaluations: int | None, budget: int | None) -> int | None:
    if budget is not None:
        if evaluations is not None:
            raise InputError("--budget is the old name of --evaluations; give --evaluations alone")
        log.warning("--budget is deprecated; write --evaluations")
    return budget if evaluations is None else evaluations


def _parameters() -> list[inspect.Parameter]:
    """The parameters that stand for `SearchOptions`, in the order of the help."""
    return [
        _parameter("device", str, help="A device inside the bundle, or a file that `supple probe` wrote."),
        *(_limit_parameter(kind) for kind in COSTS),
        _parameter("resolution", int, help="The only image size allowed, in pixels."),
        _parameter("max_resolution", int, help="The largest image size allowed, in pixels."),
        _parameter(
            "choices",
            list[str],
            metavar="GENE=VALUE,...",
            help="Restrict a gene to some of its choices: kernel_size=3,5 in all blocks, stage3.depth=2 in one stage. "
            "Repeat it for further genes.",
        ),
        _parameter(
            "evaluations",
            int,
            min=1,
            help="Evaluate at most this many architectures. Default: 25,000 for the strategy evolution, which ends "
            "before if its restarts agree; 6,000 for others and to compare; 300 where subnets are measured.",
        ),
        _parameter("budget", int, min=1, hidden=True, help="Deprecated: the old name of --evaluations."),
    ]


def _limit_parameter(kind: CostKind) -> inspect.Parameter:
    text = f"Hard limit on {kind.label} ({kind.description}), for example {kind.example}"
    if kind.build is None:
        text = f"{text}. Repeat it for each further device, as in phone={kind.example}."
        return _parameter(kind.field, list[str], kind.flag, metavar=f"[DEVICE=]{kind.unit}", help=text)
    return _parameter(kind.field, str, kind.flag, help=f"{text}.")


def _parameter(name: str, kind: Any, *flags: str, **settings: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, typer.Option(*flags, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
