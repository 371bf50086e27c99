"""How the pages write numbers and architectures. Functions of this module are filters in the templates."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.pages.form import written
from service.quantities import UNITS, handy, rounded

GAP = "\N{NARROW NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"
GENES = {
    "kernel_size": (f"{{0}}{TIMES}{{0}}", "kernel size {0}"),
    "expand_ratio": (f"{TIMES}{{0}}", "expansion ratio {0}"),
}
COUNTED = ("flops", "params", "model_bytes", "peak_memory_bytes")  # equal on any device; in the order shown
SENTENCE = {
    "latency_ms": "latency",
    "flops": "FLOPs",
    "params": "parameters",
    "model_bytes": "file size",
    "peak_memory_bytes": "peak memory",
}
KINDS = {
    "flops": "multiply-adds",
    "params": "learned values",
    "model_bytes": "bytes of ONNX, at most",
    "peak_memory_bytes": "bytes of activations",
}
LEVELS = 3  # shades and heights of a block's box
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Box:
    """One kept block. shade, height: where its first two genes stand among their choices, from 0 to LEVELS - 1."""

    label: str
    meaning: str
    shade: int
    height: int


@dataclass(frozen=True)
class Stage:
    """The kept blocks of a stage, and how many more the largest architecture has there."""

    boxes: tuple[Box, ...]
    left_out: int

    @property
    def label(self) -> str:
        """Its blocks in short."""
        return ", ".join(box.label for box in self.boxes)

    @property
    def meaning(self) -> str:
        """Its blocks in words."""
        return "; ".join(box.meaning for box in self.boxes)


def stages(arch: Mapping[str, Any], space: Mapping[str, Any]) -> list[Stage]:
    """An architecture's stages, to draw. Both arguments in their JSON form."""
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


def milliseconds(value: float | None) -> str:
    """Three significant digits, in full: `0.0430`, `12.3`, `1,230`."""
    if not isinstance(value, int | float):
        return UNKNOWN
    text = f"{value:#.3g}".rstrip(".")
    return f"{value:,.0f}" if "e+" in text or value >= 1000 else text


def cost(value: float | None, name: str) -> str:
    """A cost for people, to three significant digits: `0.0430 ms`, `978 k`, `3.21 MiB`. name: as limits are named."""
    if value is None:
        return UNKNOWN
    if name.startswith("latency_ms"):
        return f"{milliseconds(value)}{GAP}ms"
    return rounded(value, name).replace(" ", GAP)


def asked(value: float, name: str) -> str:
    """A limit for people, exactly: `0.06 ms`, `1.2 M`, `1.5 MB`, `1,163,480`."""
    if name.startswith("latency_ms"):
        return f"{value:.10g}{GAP}ms"
    text = written(value, UNITS[name])
    number = text.rstrip("GMKkiB")
    return number + GAP + text[len(number) :] if number != text else f"{value:,.10g}"


def nearest(budget: Mapping[str, Any] | None, name: str) -> str:
    """What a limit would have to be with every other one held: `0.0430 ms`, `none`, `978 k (not proven)`."""
    if budget is None:  # of a refusal stored by an earlier release
        return UNKNOWN
    text = "none" if budget["max"] is None else cost(budget["max"], name)
    return text if budget["proven"] else f"{text} (not proven)"


def cost_name(name: str) -> str:
    """What a cost is called. name: as limits are named."""
    words = in_sentence(name)
    return words[:1].upper() + words[1:]


def in_sentence(name: str) -> str:
    """What a cost is called in a sentence: `latency on board, bound at 90%`."""
    kind, *of = name.split("@")
    on = f" on {of[0]}" if of else ""
    return SENTENCE[kind] + on + (f", bound at {float(of[1]):.0%}" if len(of) > 1 else "")


def kind(name: str) -> str:
    """What a number of this cost counts."""
    return KINDS.get(name, "ms, predicted")


def volumes(values: Sequence[float], reference: Mapping[str, float]) -> dict[str, Any]:
    """Hypervolumes to draw, and in words where they end."""
    ends = [f"{cost_name(name)} {cost(end, name)}" for name, end in reference.items() if name != "error"]
    return {"sizes": values, "ends": [f"accuracy 0{GAP}%", *ends]}


def rate(per_unit: float | None, limit: float, name: str) -> str:
    """What a round amount of a cost is worth in accuracy: `0.25 % per 1 ms`. limit: of the cost called `name`."""
    if per_unit is None:
        return UNKNOWN
    unit = handy(limit, name)
    return f"{100 * per_unit * unit:.3g}{GAP}% per {asked(unit, name)}"


def when(time: datetime) -> str:
    """`20 Nov 2026, 16:33 UTC`."""
    return f"{time.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def named(text: str, names: Collection[str]) -> str:
    """A message with each cost called what people call it. names: the costs in it, as limits are named."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda match: in_sentence(match[0]), text) if names else text


def sentence(text: str) -> str:
    """With a capital and a full stop, as messages of errors have neither."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


FILTERS = {
    function.__name__: function
    for function in (
        stages,
        percent,
        milliseconds,
        cost,
        asked,
        nearest,
        cost_name,
        in_sentence,
        kind,
        rate,
        when,
        named,
        sentence,
    )
}
