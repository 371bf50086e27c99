"""Training follows its schedule, survives being killed, and stops before it does harm."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supernet.augmentation import Augmentation
from supernet.checkpoints import load_checkpoint, save_checkpoint
from supernet.data import Dataset, load
from supernet.families import preset
from supernet.schedule import Phase, Schedule
from supernet.train import TrainingError, TrainingState, _enter, train

SPACE = preset("mbv3-digits")
LARGEST = {"depth": (2,), "kernel_size": (7,), "expand_ratio": (4,)}
SCHEDULE = Schedule(
    phases=(
        Phase("largest", 2, 0.05, LARGEST, warmup_epochs=1),
        Phase("kernel", 1, 0.02, {"depth": (2,), "expand_ratio": (4,)}, distillation=1.0),
        Phase("width", 1, 0.02, sampler="strict_fair", distillation=1.0, sort_channels=True),
    ),
    batch_size=32,
    augmentation=Augmentation(shift=0.05),
    clip=1.0,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    full = load("digits", 16, seed=0, holdout=300, root=tmp_path_factory.mktemp("data"))
    return replace(full, train=full.train[:96])  # 3 steps an epoch, 12 in all


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in state.supernet.state_dict().items()}


def losses(state: TrainingState) -> list[tuple[Any, ...]]:
    """The part of the curves that is the same in every run."""
    return [tuple(curve[key] for key in ("phase", "epoch", "steps", "images", "loss")) for curve in state.curves]


def test_phases_run_in_order_and_the_loss_falls(dataset: Dataset) -> None:
    schedule = replace(SCHEDULE, phases=(replace(SCHEDULE.phases[0], epochs=8), *SCHEDULE.phases[1:]))
    state = TrainingState.fresh(SPACE, schedule)
    seen = [(p.phase, p.epoch, p.step, p.total_steps) for p in train(state, dataset)]
    assert [step for *_, step, _ in seen] == list(range(1, 31))
    assert [phase for phase, *_ in seen] == ["largest"] * 24 + ["kernel"] * 3 + ["width"] * 3
    assert state.curves[7]["loss"] < state.curves[0]["loss"] - 0.15
    assert state.teacher is not None


def test_the_first_phase_leaves_what_only_smaller_kernels_use_untouched(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, phases=SCHEDULE.phases[:1]))
    before = weights(state)
    for _ in train(state, dataset):
        pass
    after = weights(state)
    assert all(torch.equal(before[key], after[key]) for key in before if "matrices" in key)
    assert not torch.equal(before["stem.0.conv.weight"], after["stem.0.conv.weight"])


@pytest.mark.parametrize("stop", [1, 6, 9, 11])
def test_resuming_from_any_step_ends_bit_equal_to_never_stopping(stop: int, dataset: Dataset, tmp_path: Path) -> None:
    """6 and 9 are ends of phases, where the teacher is made and channels are sorted."""
    straight = TrainingState.fresh(SPACE, SCHEDULE)
    for _ in train(straight, dataset):
        pass
    state = TrainingState.fresh(SPACE, SCHEDULE)
    for progress in train(state, dataset):
        if progress.step == stop:
            break
    save_checkpoint(state, tmp_path)
    resumed = load_checkpoint(tmp_path, SPACE, SCHEDULE)
    assert resumed is not None
    assert [p.step for p in train(resumed, dataset)] == list(range(stop + 1, 13))
    expected, actual = weights(straight), weights(resumed)
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert losses(resumed) == losses(straight)


def test_the_newest_intact_checkpoint_is_used_and_two_are_kept(tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    assert load_checkpoint(tmp_path, SPACE, SCHEDULE) is None
    paths = []
    for state.step in (1, 2, 3):
        paths.append(save_checkpoint(state, tmp_path))
    assert not paths[0].exists()
    damaged = bytearray(paths[2].read_bytes())
    damaged[-1] ^= 1
    paths[2].write_bytes(damaged)
    loaded = load_checkpoint(tmp_path, SPACE, SCHEDULE)
    assert loaded is not None
    assert loaded.step == 2
    (paths[2].with_suffix(".json")).unlink()
    paths[1].with_suffix(".json").unlink()  # killed between the two files of the first checkpoint: as if none
    assert load_checkpoint(tmp_path, SPACE, SCHEDULE) is None


def test_a_checkpoint_of_another_schedule_or_space_is_refused(tmp_path: Path) -> None:
    save_checkpoint(TrainingState.fresh(SPACE, SCHEDULE), tmp_path)
    with pytest.raises(TrainingError, match="another schedule or space"):
        load_checkpoint(tmp_path, SPACE, replace(SCHEDULE, seed=1))
    with pytest.raises(TrainingError, match="another schedule or space"):
        load_checkpoint(tmp_path, preset("mbv3-digits", classes=7), SCHEDULE)


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    state.step = 1
    save_checkpoint(state, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state.step = 2
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(state, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path, SPACE, SCHEDULE)
    assert loaded is not None
    assert loaded.step == 1


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    steps = train(state, dataset)
    next(steps)
    state.supernet.head[4].bias.data[0] = math.nan
    before = {name: parameter.clone() for name, parameter in state.supernet.named_parameters()}
    with pytest.raises(
        TrainingError, match=r"the loss is nan and .* in phase largest, step 1,.*Lower learning_rate or set clip"
    ):
        next(steps)
    after = dict(state.supernet.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if name != "head.4.bias")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 97}, "there are only 96 training images"),
        ({"phases": (Phase("x", 1, 0.1, {"kernel": (3,)}),)}, "phase x: mbv3-digits has no gene 'kernel'"),
        ({"phases": (Phase("x", 1, 0.1, {"kernel_size": (4,)}),)}, "phase x: .*none of"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_before_training(
    change: dict[str, Any], message: str, dataset: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        next(train(TrainingState.fresh(SPACE, replace(SCHEDULE, **change)), dataset))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"warmup_epochs": 3}, "warmup_epochs is 3; a number of at least 0 and below 2 is needed"),
        ({"subnets_per_step": 0}, "subnets_per_step is 0"),
        ({"distillation": math.nan}, "distillation is nan"),
    ],
)
def test_a_phase_refuses_values_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SCHEDULE.phases[0], **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0; a number of at least 0 and below 1"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2.0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"resolutions": (0,)}, "resolutions has 0; multiples of 4"),
        ({"resolutions": (8,), "phases": (Phase("x", 1, 0.1, {"resolution": (8,)}),)}, "contradict each other"),
    ],
)
def test_a_schedule_refuses_values_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SCHEDULE, **fields)


@pytest.mark.parametrize("warmup", [0.01, 0.3, 0.5, 1.7])
def test_a_warm_up_of_a_part_of_an_epoch_stays_below_the_peak(warmup: float) -> None:
    phase = Phase("x", 3, 0.4, warmup_epochs=warmup)
    assert max(phase.rate(step, 17) for step in range(51)) <= 0.4


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    phase = Phase("x", 10, 0.4, warmup_epochs=2)
    rates = [phase.rate(step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[30] == pytest.approx(0.2)  # half-way down the cosine
    assert rates[-1] < 0.001


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, clip=None))
    steps = train(state, dataset)
    next(steps)
    before = {name: parameter.clone() for name, parameter in state.supernet.named_parameters()}
    state.supernet.head[4].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"gradient's norm (inf|nan) in phase largest"):
        next(steps)
    after = dict(state.supernet.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resuming_on_other_images_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    next(train(state, dataset))
    save_checkpoint(state, tmp_path)
    loaded = load_checkpoint(tmp_path, SPACE, SCHEDULE)
    assert loaded is not None
    other = replace(dataset, holdout=dataset.holdout[:200])
    with pytest.raises(TrainingError, match=r"started on other images.*200 held out"):
        next(train(loaded, other))


def test_damaged_checkpoints_are_not_taken_for_none(tmp_path: Path) -> None:
    path = save_checkpoint(TrainingState.fresh(SPACE, SCHEDULE), tmp_path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(TrainingError, match=f"every checkpoint is damaged: {path}"):
        load_checkpoint(tmp_path, SPACE, SCHEDULE)


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    save_checkpoint(state, tmp_path)
    (tmp_path / ".00000002.safetensors.1.tmp").write_bytes(b"half")
    (tmp_path / "00000002.safetensors").write_bytes(b"whole, but its second file is missing")
    for _ in range(3):
        save_checkpoint(state, tmp_path)
    kept = {"00000004.safetensors", "00000004.json", "00000005.safetensors", "00000005.json"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_channels_are_sorted_within_every_width_trained_before(dataset: Dataset) -> None:
    """The second phase leaves the width out, so all are open; the third must keep the outputs of all."""
    phases = (SCHEDULE.phases[0], Phase("all", 1, 0.02), Phase("sorted", 1, 0.02, sort_channels=True))
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, phases=phases))
    steps = train(state, dataset)
    while state.phase < 2:
        next(steps)
    arch = SPACE.decode(SPACE.sample(np.random.default_rng(0), 1, SPACE.open_choices(expand_ratio=(3,)))[0])
    images = torch.randn(2, 1, arch.resolution, arch.resolution)
    with torch.no_grad():
        before = state.supernet.eval()(images, arch)
        _enter(state, phases[2])
        assert torch.allclose(state.supernet.eval()(images, arch), before, atol=1e-5)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.supernet.test_train import SCHEDULE, SPACE, load, replace, save_checkpoint, load_checkpoint, train
from supernet.train import TrainingState
folder = Path(sys.argv[1])
data = load("digits", 16, seed=0, holdout=300, root=folder)
data = replace(data, train=data.train[:96])
state = load_checkpoint(folder / "checkpoints", SPACE, SCHEDULE) or TrainingState.fresh(SPACE, SCHEDULE)
print("started", flush=True)
for _ in train(state, data):
    save_checkpoint(state, folder / "checkpoints")
torch.save(state.supernet.state_dict(), folder / "final.pt")
"""


def test_killed_with_sigkill_again_and_again_it_still_ends_bit_equal(dataset: Dataset, tmp_path: Path) -> None:
    """It saves after every step, so kills land in forward passes and in the midst of writing checkpoints alike."""
    straight = TrainingState.fresh(SPACE, SCHEDULE)
    for _ in train(straight, dataset):
        pass
    kills = 0
    for delay in (0.05, 0.31):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(value, final[key]) for key, value in straight.supernet.state_dict().items())
    position = json.loads(sorted((tmp_path / "checkpoints").glob("*.json"))[-1].read_text())
    assert position["phase"] == len(SCHEDULE.phases)
