"""Plots as SVG: the best accuracy of each search strategy against evaluations, and the ranking of subnets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

WIDTH, HEIGHT = 800, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 44, 56  # margins, pixels
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito, for all eyes
TICKS = 6  # at most, per axis
MIN_SPAN = 1e-4  # of an axis whose values are all equal
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2321; font-variant-numeric: tabular-nums; }
.middle { text-anchor: middle; } .end { text-anchor: end; } .title { font-weight: 600; font-size: 15px; }
.rule { stroke: #dfe3e1; } .paper { fill: #fff; }
@media (prefers-color-scheme: dark) { text { fill: #e6ebe9; } .rule { stroke: #2e3734; } .paper { fill: #121615; } }
"""


def comparison_svg(compared: Mapping[str, Any]) -> str:
    """A plot of what `compare_bundle` returns: per strategy, the median over seeds and a band between the quartiles."""
    curves, evaluations = compared["curves"], compared["evaluations"]
    values = [value for curve in curves.values() for value in (*curve["low"], *curve["high"]) if value is not None]
    xs, ys = _ticks(0, max(evaluations)), _ticks(min(values), max(values))
    x = _scale(xs[0], max(xs[-1], max(evaluations)), LEFT, WIDTH - RIGHT)
    y = _scale(ys[0], ys[-1], HEIGHT - BOTTOM, TOP)
    svg = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    _add(svg, "title", compared["title"])
    _add(svg, "style", STYLE)
    _add(svg, "rect", class_="paper", width=WIDTH, height=HEIGHT)
    _add(svg, "text", compared["title"], class_="title", x=LEFT, y=24)
    digits = max(0, -math.floor(math.log10(ys[1] - ys[0])) - 2)
    for tick in ys:
        _add(svg, "line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick))
        _add(svg, "text", f"{tick:.{digits}%}", class_="end", x=LEFT - 8, y=y(tick) + 4)
    for tick in xs:
        _add(svg, "text", f"{tick:,.0f}", class_="middle", x=x(tick), y=HEIGHT - BOTTOM + 20)
    caption = "evaluations; best predicted accuracy so far, median and quartiles"
    _add(svg, "text", caption, class_="middle", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 14)
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        low, line, high = (_points(evaluations, curve[part], x, y) for part in ("low", "median", "high"))
        _add(svg, "polygon", points=" ".join(low + high[::-1]), fill=colour, fill_opacity=0.15)
        _add(svg, "polyline", points=" ".join(line), fill="none", stroke=colour, stroke_width=2)
        row = TOP + 10 + 22 * number
        _add(svg, "rect", x=WIDTH - RIGHT + 16, y=row - 6, width=18, height=4, fill=colour)
        _add(svg, "text", name, x=WIDTH - RIGHT + 42, y=row)
    return ElementTree.tostring(svg, "unicode")


def ranking_svg(report: Mapping[str, Any]) -> str:
    """A plot of what `rank_bundle` returns: inherited accuracy against accuracy after training alone, per sampler."""
    title = f"{len(report['nets'])} subnets: inherited accuracy against accuracy after training alone"
    series = {
        sampler.replace("_", "-"): [(net["alone"][0], net[sampler]) for net in report["nets"]]
        for sampler in report["samplers"]
    }
    return scatter_svg(title, "accuracy after training alone", series, "{:.1%}")


def scatter_svg(
    title: str, caption: str, series: Mapping[str, Sequence[tuple[float, float]]], across_format: str
) -> str:
    """Points (across, up) by the name of their series; `up` is an accuracy. caption: of the horizontal axis."""
    across, up = ([point[axis] for points in series.values() for point in points] for axis in (0, 1))
    xs, ys = _ticks(min(across), max(across)), _ticks(min(up), max(up))
    x, y = _scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT), _scale(ys[0], ys[-1], HEIGHT - BOTTOM, TOP)
    svg = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    _add(svg, "title", title)
    _add(svg, "style", STYLE)
    _add(svg, "rect", class_="paper", width=WIDTH, height=HEIGHT)
    _add(svg, "text", title, class_="title", x=LEFT, y=24)
    for tick in ys:
        _add(svg, "line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick))
        _add(svg, "text", f"{tick:.1%}", class_="end", x=LEFT - 8, y=y(tick) + 4)
    for tick in xs:
        _add(svg, "text", across_format.format(tick), class_="middle", x=x(tick), y=HEIGHT - BOTTOM + 20)
    _add(svg, "text", caption, class_="middle", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 14)
    for number, (name, points) in enumerate(series.items()):
        colour, row = COLOURS[number % len(COLOURS)], TOP + 10 + 22 * number
        for point in points:
            _add(svg, "circle", cx=x(point[0]), cy=y(point[1]), r=4, fill=colour, fill_opacity=0.8)
        _add(svg, "circle", cx=WIDTH - RIGHT + 25, cy=row - 4, r=4, fill=colour)
        _add(svg, "text", name, x=WIDTH - RIGHT + 42, y=row)
    return ElementTree.tostring(svg, "unicode")


def _add(parent: ElementTree.Element, tag: str, content: str | None = None, **attributes: Any) -> None:
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    ElementTree.SubElement(parent, tag, named).text = content


def _points(evaluations: Sequence[float], curve: Sequence[float | None], x: Any, y: Any) -> list[str]:
    return [f"{x(at)},{y(value)}" for at, value in zip(evaluations, curve, strict=True) if value is not None]


def _scale(low: float, high: float, start: float, end: float) -> Any:
    """A function from values between `low` and `high` to pixels between `start` and `end`."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced; the first is at most `low` and the last is at least `high`."""
    span = max(high - low, MIN_SPAN)
    magnitude = 10 ** math.floor(math.log10(span / TICKS))
    step = next(round_step * magnitude for round_step in (1, 2, 5, 10) if span / (round_step * magnitude) <= TICKS)
    first = math.floor(low / step)
    return [step * i for i in range(first, max(math.ceil(high / step), first + 1) + 1)]
