"""Latencies of whole networks that others measured: tables as CSV or JSON, and profiles of Qualcomm AI Hub.

A row names an architecture, or a network of a plan, and holds a latency. Its unit is the name of its column.
"""

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from supernet.space import Architecture, SearchSpace

UNITS = {
    **dict.fromkeys(("ms", "latency_ms", "milliseconds"), 1.0),
    **dict.fromkeys(("us", "latency_us", "microseconds"), 1e-3),
    **dict.fromkeys(("s", "latency_s", "seconds"), 1e3),
}
NAMES = ("network", "model", "name")
FORM = "a row needs `architecture` or `network`, and a latency called " + ", ".join(
    f"`{name}`" for name in ("ms", "us", "seconds")
)
MOST_LISTED = 20  # bad rows in a message
MOST_ROWS = 20_000

Row = tuple[str, Mapping[str, Any]]  # where it stands, for messages; its fields


@dataclass(frozen=True)
class Imported:
    """networks: each architecture once, with its ms. skipped: bad rows. repeated: further rows of an architecture."""

    networks: tuple[tuple[Architecture, float], ...]
    skipped: tuple[str, ...]
    repeated: int


def read_latencies(paths: Sequence[Path], space: SearchSpace, plan: Path | None = None, *, skip: bool) -> Imported:
    """Read tables and profiles. Of an architecture that is measured more than once, the median counts.

    plan: the plan of which `network` names a model. skip: leave bad rows out instead of refusing them.

    Raises:
        ValueError: a file that is no table, a table of another space, or bad rows, all of which the message lists.
        OSError: a file cannot be read.
    """
    planned = _planned(plan) if plan else {}
    found: dict[Architecture, list[float]] = {}
    bad: list[str] = []
    count = 0
    for path in paths:
        for place, row in _rows(path, space):
            count += 1
            try:
                arch, ms = _architecture(row, space, planned), _milliseconds(row)
            except ValueError as error:
                bad.append(f"{place}: {error}")
            else:
                found.setdefault(arch, []).append(ms)
    names = ", ".join(path.name for path in paths)
    if not count or count > MOST_ROWS:
        raise ValueError(f"{names}: {count} rows; 1 to {MOST_ROWS:,} can be imported")
    if not found:
        raise ValueError(
            f"{names}: none of the {count} rows is a network of {space.name} with a latency. Is it a table of another "
            f"search space? {_listed(bad)}"
        )
    if bad and not skip:
        raise ValueError(f"{names}: {len(bad)} of {count} rows cannot be used; nothing was imported. {_listed(bad)}")
    networks = tuple((arch, median(values)) for arch, values in found.items())
    return Imported(networks, tuple(bad), count - len(bad) - len(networks))


def _listed(bad: Sequence[str]) -> str:
    more = f"\n  and {len(bad) - MOST_LISTED} more" if len(bad) > MOST_LISTED else ""
    return "".join(f"\n  {line}" for line in bad[:MOST_LISTED]) + more


def _rows(path: Path, space: SearchSpace) -> Iterator[Row]:
    """The rows of a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        yield from _json_rows(path, data, space)
        return
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    if not {"architecture", *NAMES} & {*header} or not UNITS.keys() & {*header}:
        raise ValueError(f"{path} has the columns {', '.join(header) or 'of no header'}; {FORM}")
    for row in reader:
        yield f"{path.name}, line {reader.line_num}", {str(name).strip(): value for name, value in row.items()}


def _json_rows(path: Path, data: Any, space: SearchSpace) -> Iterator[Row]:
    """A list of rows, an object of rows by network, a probe's result, or one profile, named like its file."""
    if isinstance(data, dict) and "execution_summary" in data:
        yield path.name, {"network": path.stem, **data}
        return
    if isinstance(data, dict) and data.get("space_hash", space.hash) != space.hash:
        other = data.get("space") or str(data["space_hash"])[:16]
        raise ValueError(f"{path} is a table of search space {other}, not of {space.name}")
    rows = data.get("networks", data) if isinstance(data, dict) else data
    if isinstance(rows, dict):
        rows = [
            {"network": name, **(row if isinstance(row, dict) else {"ms": row})}
            for name, row in rows.items()
            if not name.startswith("space")
        ]
    for number, row in enumerate(rows, 1):
        yield f"{path.name}, row {number}", row if isinstance(row, dict) else {"row": row}


def _architecture(row: Mapping[str, Any], space: SearchSpace, planned: Mapping[str, Architecture]) -> Architecture:
    """The architecture that a row is about."""
    if str(row.get("space_hash") or space.hash) != space.hash:
        raise ValueError(f"space_hash is {str(row['space_hash'])[:16]}; {space.name} has {space.hash[:16]}")
    if (described := row.get("architecture")) not in (None, ""):
        if isinstance(described, str):
            try:
                described = json.loads(described)
            except ValueError as error:
                raise ValueError(f"architecture is {described[:80]!r}, which is not JSON") from error
        arch = Architecture.from_json(described)
    else:
        name = next((str(row[key]) for key in NAMES if row.get(key)), None)
        if name is None:
            raise ValueError(FORM)
        arch = _planned_architecture(name, planned)
    return space.decode(space.encode(arch))


def _planned_architecture(name: str, planned: Mapping[str, Architecture]) -> Architecture:
    """The architecture of a plan's model, by its name, its file's name or the identity in it."""
    stem = Path(name).name.partition(".")[0]
    for key in (stem, f"network-{stem}"):
        if key in planned:
            return planned[key]
    advice = "the plan has no such network" if planned else "give the plan that holds it with --plan"
    raise ValueError(f"network is {name[:80]!r}; {advice}")


def _milliseconds(row: Mapping[str, Any]) -> float:
    """A row's latency, ms."""
    profile = row.get("profile", row)
    if isinstance(profile, Mapping) and isinstance(summary := profile.get("execution_summary"), Mapping):
        return _ai_hub_milliseconds(summary)
    column = next((name for name in UNITS if row.get(name) not in (None, "")), None)
    if column is None:
        raise ValueError("it has no latency; " + FORM)
    return UNITS[column] * _positive(column, row[column])


def _ai_hub_milliseconds(summary: Mapping[str, Any]) -> float:
    """Of Qualcomm AI Hub's profile: the estimate that its pages show, else the median of all runs; microseconds."""
    if (estimate := summary.get("estimated_inference_time")) is not None:
        return 1e-3 * _positive("estimated_inference_time", estimate)
    runs = summary.get("all_inference_times")
    if not isinstance(runs, Sequence) or not runs:
        raise ValueError("execution_summary has neither estimated_inference_time nor all_inference_times")
    return 1e-3 * median(_positive("all_inference_times", value) for value in runs)


def _positive(column: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{column} is {str(value)[:40]!r}; a positive number is needed")
    return number


def _planned(path: Path) -> dict[str, Architecture]:
    """By name, the architectures of a plan's networks."""
    try:
        with zipfile.ZipFile(path) as file:
            models = json.loads(file.read("plan.json"))["models"]
        return {
            str(model["name"]): Architecture.from_json(model["architecture"])
            for model in models
            if model["kind"] == "network"
        }
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a plan: {error}") from error
