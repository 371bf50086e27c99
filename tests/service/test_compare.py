"""`supple compare`: what it prints, and its plot."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from evolution.search import STRATEGIES
from service.cli.plot import comparison_svg
from tests.support.command_line import Run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def device(measurements: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "board.json"
    path.write_text(json.dumps(measurements))
    return path


def test_every_strategy_is_compared_within_the_limits(
    bundle_path: Path, device: Path, tmp_path: Path, run: Run
) -> None:
    plot = tmp_path / "plot.svg"
    limits = ["--device", str(device), "--max-latency-ms", "0.05ms", "--max-flops", "1M", "--max-model-bytes", "500KB"]
    ran = run("compare", str(bundle_path), *limits, "--evaluations", "300", "--seeds", "2", "-o", str(plot), "--json")
    assert ran.code == 0, ran.stderr
    compared = json.loads(ran.stdout)
    assert {row["strategy"] for row in compared["strategies"]} == set(STRATEGIES)
    assert compared["limits"] == {"latency_ms": 0.05, "flops": 1e6, "model_bytes": 5e5}
    assert (compared["budget"], compared["seeds"], compared["device"]) == (300, 2, "board")
    found = [accuracy for row in compared["strategies"] for accuracy in row["predicted_accuracies"]]
    assert len(found) == 2 * len(STRATEGIES)
    assert compared["best_known"]["predicted_accuracy"] == max(found)
    for row in compared["strategies"]:
        assert row["mean"] == pytest.approx(np.mean(row["predicted_accuracies"]))
        assert row["regret"] == pytest.approx(max(found) - row["mean"])
        assert (row["p_value"] is None) == (row["strategy"] == "random")
        assert compared["curves"][row["strategy"]]["median"][-1] <= max(row["predicted_accuracies"])
    drawn = ElementTree.parse(plot).getroot()
    assert len(drawn.findall(f"{SVG}polyline")) == len(STRATEGIES)
    assert set(STRATEGIES) <= {text.text for text in drawn.findall(f"{SVG}text")}


def test_the_table_names_every_strategy_and_the_test(bundle_path: Path, run: Run) -> None:
    restricted = ["--max-flops", "2M", "--max-resolution", "12", "--choices", "kernel_size=3,5"]
    ran = run("compare", str(bundle_path), *restricted, "--evaluations", "100", "--seeds", "2", "--no-local-search")
    assert ran.code == 0, ran.stderr
    assert all(f" {name} " in ran.stdout for name in STRATEGIES)
    assert "exact one-sided Mann-Whitney U" in ran.stdout
    assert "flops at most 2,000,000, resolution at most 12, kernel_size 3 or 5; 100 evaluations" in ran.stdout
    assert "2 seeds" in ran.stdout
    assert "ends with the local search" not in ran.stdout


def test_an_infeasible_comparison_is_refused_with_the_floor(bundle_path: Path, tmp_path: Path, run: Run) -> None:
    plot = tmp_path / "plot.svg"
    ran = run("compare", str(bundle_path), "--max-flops", "10", "-o", str(plot))
    assert ran.code == 2
    assert "flops is limited to 10, and no architecture of mbv3-digits is below" in ran.stderr
    assert not plot.exists()
    ran = run("compare", str(bundle_path), "-o", str(tmp_path / "none" / "plot.svg"))
    assert ran.code == 2
    assert "--output is" in ran.stderr


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5], [0.1, 0.2, 0.9], [0.9123, 0.91231, 0.91232]])
def test_a_plot_keeps_its_lines_inside_and_its_text_harmless(values: list[float]) -> None:
    curve = {"low": [None, *values[1:]], "median": values, "high": values}
    compared = {"title": "<script>&", "evaluations": [10, 100, 1000], "curves": {"evolution": curve}}
    drawn = ElementTree.fromstring(comparison_svg(compared))
    width, height = (float(side) for side in drawn.attrib["viewBox"].split()[2:])
    for line in [*drawn.findall(f"{SVG}polyline"), *drawn.findall(f"{SVG}polygon")]:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 < x < width
            assert 0 < y < height
    assert drawn.findtext(f"{SVG}title") == "<script>&"
    labels = [text.text for text in drawn.findall(f"{SVG}text") if text.text and text.text.endswith("%")]
    assert len(labels) == len(set(labels)) > 1
