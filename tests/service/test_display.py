"""Progress is seen in a terminal of 80 columns, and in a log file."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from service.bundles.train import Step
from service.cli import display
from supernet.data import Images, load


def shown(*, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, color_system=None)
    steps = (Step("train", done, 300, f"kernel 12, loss {4 - done / 100:.2f}, 1234 img/s") for done in (1, 2, 299))
    display.watch(steps, console)
    return file.getvalue()


def test_phase_epoch_loss_images_per_second_and_time_left_fit_a_terminal() -> None:
    lines = [line for line in shown(terminal=True).splitlines() if "kernel 12, loss 1.01, 1234 img/s" in line]
    assert lines
    assert all("left 0:00:0" in line for line in lines)


def test_a_log_file_gets_lines_while_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    first, second, *_ = shown(terminal=False).splitlines()
    assert first.startswith("train 1/300")
    assert second.endswith("kernel 12, loss 3.98, 1234 img/s")
    monkeypatch.setattr(display, "LINE_SECONDS", 60.0)
    assert "train 2/300" not in shown(terminal=False)


def test_the_images_of_each_class_and_split_and_rare_classes_are_shown(tmp_path: Path) -> None:
    dataset = load("digits", 16, seed=0, holdout=300, root=tmp_path)
    assert isinstance(dataset.train, Images)
    few = torch.cat([(dataset.train.labels == label).nonzero()[: 5 + 20 * label, 0] for label in range(10)])
    dataset = replace(dataset, train=dataset.train[few], remarks=("img: 3 files are not used (3 .heic)",))
    file = io.StringIO()
    display.show_dataset(dataset, Console(file=file, width=200))
    lines = [line.strip(" │┃").split() for line in file.getvalue().splitlines()]
    rows = {line[0]: line[2::2] for line in lines if len(line) == 7}
    assert rows["0"][0] == "5"
    assert rows["all"] == [str(len(few)), "300", "359"]
    assert "rare classes: 0 (5 to train on)\n" in file.getvalue()
    assert "img: 3 files are not used (3 .heic)" in file.getvalue()
    file = io.StringIO()
    display.show_dataset(replace(dataset, lost_files=("cat/3.png",)), Console(file=file, width=200))
    assert "1 images are lost since the run was started" in file.getvalue()
