"""`supple train --dry-run` says what a run would do, after a few real steps, and writes no run."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from service.bundles import dry_run
from service.bundles.config import read_config
from service.bundles.dry_run import Forecast
from supernet.training import loop
from tests.support.bundles import write
from tests.support.command_line import Run, refused

pytestmark = pytest.mark.slow  # it trains

PHASES = [
    {"name": "largest", "epochs": 3, "learning_rate": 0.1, "growing": [8, 12, 16]},
    {"name": "all", "epochs": 2, "learning_rate": 0.01, "sampler": "sandwich", "subnets_per_step": 3},
    {"name": "end", "epochs": 1, "learning_rate": 0.01, "distillation": 1.0},
]


def configuration(folder: Path, **changes: object) -> Path:
    data = {
        "name": "x",
        "space": "mbv3-digits",
        "dataset": {"source": "digits", "holdout": 1380},
        "evaluation": {"subnets": 100, "calibration_images": 8},
        "schedule": {"batch_size": 8, "phases": PHASES},
        "threads": 1,
    }
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    return path


def test_steps_subnets_memory_and_time_are_forecast_phase_by_phase(tmp_path: Path) -> None:
    forecasts: list[Forecast] = []
    config = read_config(configuration(tmp_path))
    stages = {step.stage for step in dry_run.dry_run(config, data_root=tmp_path, show_forecast=forecasts.append)}
    assert stages == {"a few steps", "two subnets"}
    (forecast,) = forecasts
    assert [(phase.name, phase.epochs, phase.steps, phase.subnets) for phase in forecast.phases] == [
        ("largest", 3, 21, 1),
        ("all", 2, 14, 3),
        ("end", 1, 7, 1),
    ]
    assert all(phase.seconds_per_step > 0 and phase.peak_memory_bytes > 2**20 for phase in forecast.phases)
    total = sum(phase.steps * phase.seconds_per_step for phase in forecast.phases) + 100 * forecast.seconds_per_subnet
    assert forecast.seconds == pytest.approx(total)
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_growing_phases_are_timed_at_every_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[int, int]] = []
    train = loop.train

    def recorded(state: object, *rest: object, **options: object) -> object:
        starts.append((state.phase, state.step))  # type: ignore[attr-defined]
        return train(state, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dry_run, "train", recorded)
    list(dry_run.dry_run(read_config(configuration(tmp_path)), data_root=tmp_path))
    assert starts == [(0, 0), (0, 7), (0, 14), (1, 0), (2, 0)]


def test_the_command_prints_classes_phases_and_what_init_takes_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "img" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8)).save(tmp_path / "img" / name / f"{number}.png")
    write(tmp_path / "other")
    config = configuration(
        tmp_path,
        space="mbv3-digits",
        init=str(tmp_path / "other"),
        dataset={"source": str(tmp_path / "img"), "holdout": 4},
    )
    ran = run("train", str(config), "--dry-run", "--data-root", str(tmp_path / "data"))
    assert ran.code == 0, ran.stderr
    text = re.sub(r"[│┃|]", " ", ran.stdout)
    assert re.search(r"cat +6 +2", text)
    assert re.search(r"rare classes: cat \(6 to train on\)", text)
    assert re.search(r"started from small .*tensors taken, new: head\.4\.bias, head\.4\.weight", text)
    assert re.search(r"largest +3 +3 +1 ", text)
    assert "in all, estimated from a few steps of each phase; nothing was trained" in text
    assert {path.name for path in tmp_path.iterdir()} == {"data", "img", "other", "x.yaml"}
    refused(run("train", str(config)), 2, "--output is missing")
