"""Progress is seen in a terminal of 80 columns, and in a log file."""

import io

import pytest
from rich.console import Console

from service.bundles.train import Step
from service.cli import display


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
