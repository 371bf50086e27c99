"""docs/own-network.md: every command runs, on few images, from a trained network to its ONNX files."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image

from service.devices import probe
from supernet.bundle import Bundle
from supernet.export.parity import run_onnx
from tests.support.command_line import Ran

PAGE = (Path(__file__).parents[1] / "docs" / "own-network.md").read_text()
SMALL = {"batch_size": 16, "holdout": 24, "subnets": 10, "calibration_images": 32, "epochs": 2}


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    return [line for text in blocks for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory as the page says that it is, with few images; a cat is dark above, a dog below."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probe, "run_plan", partial(probe.run_plan, samples=3))
    Path("mine.py").write_text(block("python"))
    Path("classes.txt").write_text("cat\ndog\n")
    rng = np.random.default_rng(0)
    for number in range(80):
        path = Path("images/train") / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(60, 256, (64, 64, 3), np.uint8)
        pixels[32 * (number % 2) :][:32] //= 2
        Image.fromarray(pixels).save(path)
    import mine  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(mine.resnet().state_dict(), "best.pth")
    config = yaml.safe_load(block("yaml"))
    for part in (config["dataset"], config["evaluation"], config["schedule"], *config["schedule"]["phases"]):
        part |= {name: value for name, value in SMALL.items() if name in part}
    Path("my.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_runs(folder: Path, run: Callable[..., Ran]) -> None:
    assert len(commands()) >= 10
    printed = {}
    for line in commands():
        program, *arguments = shlex.split(line)
        assert program == "supple", line
        redirected = arguments[-1] if ">" in arguments else None
        ran = run(*(arguments[:-2] if redirected else arguments))
        assert ran.code == 0, (line, ran.stderr)
        printed[line] = ran.stdout
        if redirected:
            Path(redirected).write_text(ran.stdout)

    assert "the largest subnet is the network" in printed[commands()[0]]
    best = json.loads(Path("best.json").read_text())["best"]
    assert best["predicted_latency_ms"]["cpu"] <= 2
    card = json.loads(Path("runs/tuned/finetuned.json").read_text())
    assert card["arch"] == best["arch"]
    assert card["images"] == {"train": 56, "holdout": 24}
    assert Bundle.open(Path("runs/mine/bundle")).stand_alone == {f"fine-tuned-{card['id']}": card}

    side = best["arch"]["resolution"]
    images = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    files = {name: Path(name).read_bytes() for name in ("runs/tuned/network.onnx", "tuned.onnx", "inherited.onnx")}
    logits = {name: run_onnx(data, images) for name, data in files.items()}
    np.testing.assert_array_equal(logits["runs/tuned/network.onnx"], logits["tuned.onnx"])
    assert np.abs(logits["inherited.onnx"] - logits["tuned.onnx"]).max() > 0
    training = {
        name: {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}.get("training")
        for name, data in files.items()
    }
    assert training == {"runs/tuned/network.onnx": "fine-tuned", "tuned.onnx": "fine-tuned", "inherited.onnx": None}
    assert "can be fine-tuned on the images in" in printed["supple register runs/mine/bundle --images images"]
