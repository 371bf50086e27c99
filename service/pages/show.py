"""How the pages write numbers and architectures. The functions in `FILTERS` are filters of the templates."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evolution.predictors.uncertainty import DEVIATIONS
from service.costs import cost_kind
from service.quantities import MILLISECONDS, round_amount, rounded, written
from supernet.evaluation.metrics import Metric

GAP = "\N{NARROW NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"
GENES = {
    "kernel_size": (f"{{0}}{TIMES}{{0}}", "kernel size {0}"),
    "expand_ratio": (f"{TIMES}{{0}}", "expansion ratio {0}"),
}
LEVELS = 3  # shades and heights of a block's box
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Box:
    """One block. shade, height: the ranks of its first two genes among their choices, from 0 to LEVELS - 1."""

    label: str
    meaning: str
    shade: int
    height: int


@dataclass(frozen=True)
class Stage:
    """A stage's blocks, and how many more of them the largest architecture has."""

    boxes: tuple[Box, ...]
    left_out: int

    @property
    def label(self) -> str:
        """Short labels of the blocks."""
        return ", ".join(box.label for box in self.boxes)

    @property
    def meaning(self) -> str:
        """The blocks in words."""
        return "; ".join(box.meaning for box in self.boxes)


def stages(arch: Mapping[str, Any], space: Mapping[str, Any]) -> list[Stage]:
    """The stages of an architecture, to draw. arch, space: in their JSON forms."""
    result = []
    for blocks, depths in zip(arch["stages"], space["depths"], strict=True):
        boxes = tuple(_box(block, space["block_genes"]) for block in blocks)
        result.append(Stage(boxes, max(depths) - len(boxes)))
    return result


def _box(block: Sequence[float], genes: Sequence[Mapping[str, Any]]) -> Box:
    forms = [GENES.get(gene["name"], (gene["name"] + " {0}",) * 2) for gene in genes]
    short, long = ([form[i].format(value) for form, value in zip(forms, block, strict=True)] for i in (0, 1))
    levels = [_level(value, gene["choices"]) for value, gene in zip(block, genes, strict=True)]
    return Box(" · ".join(short), ", ".join(long), *[*levels, 0, 0][:2])


def _level(value: float, choices: Sequence[float]) -> int:
    return round(choices.index(value) / max(1, len(choices) - 1) * (LEVELS - 1))


def line(arch: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """An architecture in one line: `12 px | 5×5 · ×3, 5×5 · ×4 | 3×3 · ×2`."""
    return " | ".join((f"{arch['resolution']}{GAP}px", *(stage.label for stage in stages(arch, space))))


def percent(fraction: float | None) -> str:
    """`98.40 %`."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.2f}{GAP}%"


def interval(std: float) -> str:
    """`± 0.21 %`, half the width of a 95 % interval."""
    return f"± {percent(DEVIATIONS * std)}"


def metric(name: Metric) -> str:
    """A metric's label, to begin with: `Macro F1`."""
    return {
        "accuracy": "Accuracy",
        "top5": "Top-5 accuracy",
        "f1_macro": "Macro F1",
        "log_likelihood": "Log-likelihood",
    }[name]


def score(value: float | None, name: Metric) -> str:
    """A score by a metric: `98.40 %`, `-0.0731`."""
    return percent(value) if name != "log_likelihood" else UNKNOWN if value is None else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    """At least three significant digits: `0.0430`, `12.3`, `1,230`."""
    if not isinstance(value, int | float):
        return UNKNOWN
    text = f"{value:#.3g}".rstrip(".")
    return f"{value:,.0f}" if "e+" in text or value >= 1000 else text


def cost(value: float | None, name: str) -> str:
    """A cost for people, to three significant digits: `0.0430 ms`, `978 k`, `3.21 MiB`. name: as limits are named."""
    if value is None:
        return UNKNOWN
    kind = cost_kind(name)
    if kind.units is MILLISECONDS:
        return f"{milliseconds(value)}{GAP}{kind.unit}"
    return rounded(value, kind.units).replace(" ", GAP)


def exact(value: float, name: str) -> str:
    """A limit for people, exactly: `0.06 ms`, `1.2 M`, `1.5 MB`, `1,163,480`. name: the limit's."""
    units = cost_kind(name).units
    text = written(value, units)
    number = text.rstrip("".join(units.sizes))
    if number != text:
        return number + GAP + text[len(number) :]
    return f"{value:,.10g}{GAP}{units.base}".rstrip(GAP)


def nearest(limit: Mapping[str, Any] | None, name: str) -> str:
    """The lowest limit that can be met while the other limits hold: `0.0430 ms`, `none`, `978 k (not proven)`."""
    if limit is None:  # a refusal that an earlier release stored has none
        return UNKNOWN
    text = "none" if limit["max"] is None else cost(limit["max"], name)
    return text if limit["proven"] else f"{text} (not proven)"


def cost_name(name: str) -> str:
    """A cost's label, to begin with. name: as limits are named."""
    return capital(in_sentence(name))


def in_sentence(name: str) -> str:
    """A cost's label inside a sentence: `latency on board, bound at 90%`. name: as limits are named."""
    _, device, confidence = (*name.split("@"), "", "")[:3]
    on_device = f" on {device}" if device else ""
    return cost_kind(name).label + on_device + (f", bound at {float(confidence):.0%}" if confidence else "")


def lowest(name: str) -> str:
    """A small value of a cost inside a sentence: `lowest latency`, `fewest parameters`."""
    kind = cost_kind(name)
    return f"{kind.lowest} {kind.label}"


def unit(name: str) -> str:
    """What the numbers of a cost count. name: as limits are named."""
    kind = cost_kind(name)
    return kind.unit if kind.build else f"{kind.unit}, predicted"


def volumes(values: Sequence[float], reference: Mapping[str, float]) -> dict[str, Any]:
    """Hypervolumes to draw, and their reference point in words."""
    ends = [f"{cost_name(name)} {cost(end, name)}" for name, end in reference.items() if name != "error"]
    return {"sizes": values, "ends": [f"accuracy 0{GAP}%", *ends]}


def rate(per_unit: float | None, limit: float, name: str) -> str:
    """What a round amount of a cost is worth in accuracy: `0.25 % per 1 ms`. limit: the limit on this cost."""
    if per_unit is None:
        return UNKNOWN
    amount = round_amount(limit, cost_kind(name).units)
    return f"{100 * per_unit * amount:.3g}{GAP}% per {exact(amount, name)}"


def when(time: datetime) -> str:
    """`20 Nov 2026, 16:33 UTC`."""
    return f"{time.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def named(text: str, names: Collection[str]) -> str:
    """A message with each name of a limit replaced by its label. names: the names of the limits."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda match: in_sentence(match[0]), text) if names else text


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """An error's message with a capital first letter and a full stop."""
    return capital(text) + ("" if text.endswith((".", "!", "?")) else ".")


FILTERS = {
    function.__name__: function
    for function in (
        stages,
        percent,
        interval,
        metric,
        score,
        milliseconds,
        cost,
        exact,
        nearest,
        cost_name,
        in_sentence,
        lowest,
        unit,
        rate,
        when,
        named,
        capital,
        sentence,
    )
}
