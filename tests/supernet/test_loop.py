"""Training follows its schedule, survives being killed, and stops before it does harm."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supernet.data import Dataset, load
from supernet.families import preset
from supernet.space import SearchSpace
from supernet.training.augmentation import Augmentation
from supernet.training.batches import Batch, Batches
from supernet.training.checkpoints import load_checkpoint, save_checkpoint
from supernet.training.loop import TrainingError, TrainingState, start_phase, train
from supernet.training.sampling import make_sampler
from supernet.training.schedule import Phase, Schedule
from tests.support.photographs import photographs

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

MIXED = Augmentation(flip=True, rand_augment=5, mixup=0.2, cutmix=1.0)
GROWING = (
    Phase("largest", 2, 0.05, LARGEST, growing=(8, 16)),
    Phase("everything", 2, 0.02, sampler="sandwich", subnets_per_step=2, growing=(8, 12, 16), sort_channels=True),
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


def loaded(folder: Path, *, space: SearchSpace = SPACE, schedule: Schedule = SCHEDULE) -> TrainingState | None:
    """The state of the newest intact checkpoint in a folder."""
    state = TrainingState.fresh(space, schedule)
    return state if load_checkpoint(state, folder) else None


def losses(state: TrainingState) -> list[tuple[Any, ...]]:
    """The part of the curves that is the same in every run."""
    return [tuple(curve[key] for key in ("phase", "epoch", "steps", "images", "loss")) for curve in state.curves]


@pytest.mark.slow
def test_phases_run_in_order_and_the_loss_falls(dataset: Dataset) -> None:
    schedule = replace(SCHEDULE, phases=(replace(SCHEDULE.phases[0], epochs=8), *SCHEDULE.phases[1:]))
    state = TrainingState.fresh(SPACE, schedule)
    seen = [(p.phase, p.epoch, p.step, p.total_steps) for p in train(state, dataset)]
    assert [step for *_, step, _ in seen] == list(range(1, 31))
    assert [phase for phase, *_ in seen] == ["largest"] * 24 + ["kernel"] * 3 + ["width"] * 3
    assert state.curves[7]["loss"] < state.curves[0]["loss"] - 0.15
    assert state.teacher is not None


def test_no_teacher_is_made_where_none_teaches(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, phases=GROWING))
    for _ in train(state, dataset):
        pass
    assert state.teacher is None


def test_options_left_at_their_defaults_do_not_change_the_hash_that_checkpoints_carry() -> None:
    """Written down, so that whoever adds an option sees whether checkpoints of before are still accepted."""
    schedule = Schedule((Phase("all", 2, 0.1, {"depth": (2,)}, sampler="uniform"),), 32, ema=None)
    assert schedule == Schedule((Phase("all", 2, 0.1, {"depth": (2,)}),), 32, augmentation=Augmentation(flip=False))
    assert schedule.hash == "bc7d272d733c193a25636d59a2102d7a875e2380ac9c957865fa7b08b9d51a53"
    for other in ({"ema": 0.9}, {"augmentation": Augmentation(flip=True)}, {"phases": GROWING}, {"momentum": 0.8}):
        assert replace(schedule, **other).hash != schedule.hash


def test_the_first_phase_leaves_what_only_smaller_kernels_use_untouched(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, phases=SCHEDULE.phases[:1]))
    before = weights(state)
    for _ in train(state, dataset):
        pass
    after = weights(state)
    assert all(torch.equal(before[key], after[key]) for key in before if "matrices" in key)
    assert not torch.equal(before["stem.0.conv.weight"], after["stem.0.conv.weight"])


UNINTERRUPTED: dict[str, TrainingState] = {}


def uninterrupted(schedule: Schedule, dataset: Dataset) -> TrainingState:
    """The state at the end of a schedule that ran without a stop, trained once for all tests that compare with it."""
    if schedule.hash not in UNINTERRUPTED:
        state = TrainingState.fresh(SPACE, schedule)
        for _ in train(state, dataset):
            pass
        UNINTERRUPTED[schedule.hash] = state
    return UNINTERRUPTED[schedule.hash]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "options"),
    [
        (1, {}),
        (6, {}),  # 6 and 9 are ends of phases, where the teacher is made and channels are sorted
        (9, {}),
        (11, {"ema": 0.9}),
        (6, {"ema": 0.9, "precision": "bf16", "micro_batches": 2, "batch_size": 4}),  # slow without bf16 instructions
        (7, {"precision": "bf16", "batch_size": 4}),
        (8, {"phases": GROWING}),
        (7, {"optimiser": "adamw", "augmentation": MIXED, "dropout": 0.2, "stochastic_depth": 0.2, "micro_batches": 2}),
    ],
)
def test_resuming_from_any_step_ends_bit_equal_to_never_stopping(
    stop: int, options: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    schedule = replace(SCHEDULE, **options)
    dataset = replace(dataset, train=dataset.train[: 3 * schedule.batch_size])
    straight = uninterrupted(schedule, dataset)
    state = TrainingState.fresh(SPACE, schedule)
    for progress in train(state, dataset):
        if progress.step == stop:
            break
    save_checkpoint(state, tmp_path)
    resumed = loaded(tmp_path, schedule=schedule)
    assert resumed is not None
    assert [p.step for p in train(resumed, dataset)] == list(range(stop + 1, 13))
    expected, actual = weights(straight), weights(resumed)
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    expected, actual = straight.averaged().state_dict(), resumed.averaged().state_dict()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert losses(resumed) == losses(straight)


def test_a_step_is_one_of_adamw_and_decays_the_weights_of_convolutions_and_linear_layers_alone(
    dataset: Dataset,
) -> None:
    """The first step of AdamW goes by the learning rate, against the sign of the gradient (arXiv:1711.05101)."""
    phase = replace(SCHEDULE.phases[0], warmup_epochs=0.0, learning_rate=0.01)
    state = TrainingState.fresh(SPACE, Schedule((phase,), 32, optimiser="adamw", weight_decay=0.1))
    before = {name: value.detach().clone() for name, value in state.supernet.named_parameters()}
    next(train(state, dataset))
    for name, value in state.supernet.named_parameters():
        if value.grad is None:
            assert torch.equal(value, before[name])
            continue
        decay = 1 - 0.01 * 0.1 * (value.ndim == 4 or (value.ndim == 2 and name.endswith("weight")))
        certain = value.grad.abs() > 1e-5  # where epsilon is small beside the gradient
        expected = before[name] * decay - 0.01 * value.grad.sign()
        assert torch.allclose(value[certain], expected[certain], atol=1e-4)


def test_a_step_is_one_of_nesterov_and_decays_the_weights_of_convolutions_and_linear_layers_alone(
    dataset: Dataset,
) -> None:
    """The first step of Nesterov momentum m goes by (1 + m) times the clipped gradient."""
    phase = replace(SCHEDULE.phases[0], warmup_epochs=0.0)
    schedule = Schedule((phase,), 32, momentum=0.5, weight_decay=0.1, clip=1e-3)
    state = TrainingState.fresh(SPACE, schedule)
    before = {name: value.detach().clone() for name, value in state.supernet.named_parameters()}
    layout = []
    state.supernet.stem.register_forward_pre_hook(
        lambda _, inputs: layout.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    next(train(state, dataset))
    assert layout == [True]
    gradients = {name: value.grad for name, value in state.supernet.named_parameters() if value.grad is not None}
    assert math.isclose(math.sqrt(sum(float(grad.square().sum()) for grad in gradients.values())), 1e-3, rel_tol=1e-3)
    decayed = {name for name in gradients if name.endswith("weight") and before[name].ndim > 1}
    assert {before[name].ndim for name in gradients} == {1, 2, 4}
    for name, parameter in state.supernet.named_parameters():
        if name in gradients:
            rate, decay = phase.learning_rate, 0.1 if name in decayed else 0.0
            expected = before[name] - rate * 1.5 * (gradients[name] + decay * before[name])
            assert torch.allclose(parameter, expected, atol=1e-7), name
        else:
            assert torch.equal(parameter, before[name])


def test_strict_fairness_sums_the_gradients_of_all_paths_and_steps_once(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = preset("fairnas-cifar", in_channels=1)
    schedule = Schedule((Phase("all", 1, 0.01, sampler="strict_fair"),), 48, resolutions=(8,))
    state = TrainingState.fresh(space, schedule)
    updates: Counter[str] = Counter()
    for name, parameter in state.supernet.named_parameters():
        if "block" in name:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: updates.update([name]))
    at_steps = []
    real = torch.optim.SGD.step

    def step(self: torch.optim.SGD) -> Any:
        at_steps.append(set(updates.values()))
        return real(self)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    assert len(list(train(state, dataset))) == 2
    assert at_steps == [{1}, {2}]
    assert len(updates) == sum("block" in name for name, _ in state.supernet.named_parameters())


def test_half_precision_resumes_within_a_phase_in_which_no_step_was_taken_yet(tmp_path: Path) -> None:
    """Every step so far may have overflowed, so that there is no momentum to restore."""
    state = TrainingState.fresh(SPACE, SCHEDULE)
    state.optimiser, state.step = state.fresh_optimiser(), 2
    save_checkpoint(state, tmp_path)
    found = loaded(tmp_path)
    assert found is not None
    assert found.optimiser is not None


def test_the_average_of_the_weights_begins_anew_in_each_phase_and_follows_its_decay(dataset: Dataset) -> None:
    phases = (replace(SCHEDULE.phases[0], epochs=1, warmup_epochs=0), SCHEDULE.phases[1])
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, phases=phases, ema=0.15))
    name = "stem.0.conv.weight"
    before = expected = weights(state)[name]
    for number, _ in enumerate(train(state, dataset)):
        current = weights(state)[name]
        if number == 3:  # the first step of the second phase
            expected = before
        decay = [0.1, 0.15, 0.15][number % 3]  # from (1 + step) / (10 + step) to what was asked for
        expected = decay * expected + (1 - decay) * current
        assert torch.allclose(state.averaged().state_dict()[name], expected, atol=1e-7)
        assert not torch.equal(expected, current)
        before = current
        if number == 2:
            end_of_first = state.averaged()
    assert state.teacher is not None
    assert torch.equal(state.teacher.state_dict()["stem.0.conv.weight"], end_of_first.state_dict()[name])
    assert torch.equal(
        state.averaged().state_dict()["stem.0.norm.running_mean"], weights(state)["stem.0.norm.running_mean"]
    )


@pytest.mark.slow
def test_half_precision_trains_to_nearly_the_same_loss_with_weights_in_single(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, replace(SCHEDULE, precision="bf16"))
    single = [progress.loss for progress in train(TrainingState.fresh(SPACE, SCHEDULE), dataset)]
    half = [progress.loss for progress in train(state, dataset)]
    assert half == pytest.approx(single, rel=0.05)
    assert half != single
    assert all(value.dtype == torch.float32 for value in state.supernet.parameters())


@pytest.mark.slow
def test_an_overflow_of_half_precision_skips_the_step_and_halves_the_scale(dataset: Dataset, tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, precision="fp16")
    state = TrainingState.fresh(SPACE, schedule)
    steps = train(state, dataset)
    next(steps)
    scale, before = state.scaler.get_scale(), weights(state)
    hook = state.supernet.head[4].weight.register_hook(lambda gradient: gradient * math.inf)
    next(steps)
    assert state.scaler.get_scale() == scale / 2
    after = weights(state)
    assert all(torch.equal(before[name], after[name]) for name, _ in state.supernet.named_parameters())
    save_checkpoint(state, tmp_path)
    resumed = loaded(tmp_path, schedule=schedule)
    assert resumed is not None
    assert resumed.scaler.state_dict() == state.scaler.state_dict()
    hook.remove()
    next(steps)
    assert not torch.equal(weights(state)["head.4.weight"], before["head.4.weight"])


def test_micro_batches_leave_the_mean_of_the_statistics_that_each_would_leave_alone(dataset: Dataset) -> None:
    one_step = replace(SCHEDULE, phases=(replace(SCHEDULE.phases[0], warmup_epochs=0),))
    state = TrainingState.fresh(SPACE, replace(one_step, micro_batches=2))
    next(train(state, dataset))
    batch = Batches(dataset.train, one_step, 0)
    whole = batch[0]
    assert isinstance(whole, Batch)
    arch = make_sampler(SPACE, one_step, 0, 1).draw(0)[0]
    pixels = dataset.normalization(batch.augmented(whole, torch.device("cpu")), arch.resolution)
    halves = []
    for half in pixels.chunk(2):
        alone = TrainingState.fresh(SPACE, one_step).supernet.train()
        alone(half.contiguous(memory_format=torch.channels_last), arch)
        halves.append(alone.state_dict())
    for name, value in weights(state).items():
        if "running" in name:
            assert torch.allclose(value, (halves[0][name] + halves[1][name]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batches": 3}, "batch_size is 32, to be split into 3 equal parts of at least 2 images"),
        ({"batch_size": 34, "micro_batches": 16}, "batch_size is 34, to be split into 16 equal parts"),
    ],
)
def test_batches_that_cannot_be_split_equally_are_refused(
    fields: dict[str, Any], message: str, dataset: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        next(train(TrainingState.fresh(SPACE, replace(SCHEDULE, **fields)), dataset))


def test_curves_tell_images_per_second_and_peak_memory_of_each_phase(dataset: Dataset) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    started = time.perf_counter()
    for _ in train(state, dataset):
        pass
    took = time.perf_counter() - started
    assert [(curve["phase"], curve["epoch"]) for curve in state.curves] == [
        ("largest", 1),
        ("largest", 2),
        ("kernel", 1),
        ("width", 1),
    ]
    assert [curve["images"] for curve in state.curves] == [96, 96, 96, 3 * 96]  # strict fairness draws three subnets
    assert took / 2 < sum(curve["seconds"] for curve in state.curves) < took
    for curve in state.curves:
        assert curve["images_per_second"] == pytest.approx(curve["images"] / curve["seconds"], abs=0.1)
        assert 2**26 < curve["peak_memory_bytes"] < 2**36


def test_the_newest_intact_checkpoint_is_used_and_two_are_kept(tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    assert loaded(tmp_path) is None
    paths = []
    for state.step in (1, 2, 3):
        paths.append(save_checkpoint(state, tmp_path))
    assert not paths[0].exists()
    damaged = bytearray(paths[2].read_bytes())
    damaged[-1] ^= 1
    paths[2].write_bytes(damaged)
    found = loaded(tmp_path)
    assert found is not None
    assert found.step == 2
    damaged[-1] ^= 1
    paths[2].write_bytes(damaged)
    position = json.loads(paths[2].with_suffix(".json").read_text())
    changed: Any
    for changed in ({**position, "step": 7}, {name: value for name, value in position.items() if name != "phase"}, []):
        paths[2].with_suffix(".json").write_text(json.dumps(changed))
        found = loaded(tmp_path)
        assert found is not None
        assert found.step == 2
    (paths[2].with_suffix(".json")).unlink()
    paths[1].with_suffix(".json").unlink()  # killed between the two files of the first checkpoint: as if none
    assert loaded(tmp_path) is None


def test_a_checkpoint_of_another_schedule_or_space_is_refused(tmp_path: Path) -> None:
    save_checkpoint(TrainingState.fresh(SPACE, SCHEDULE), tmp_path)
    with pytest.raises(TrainingError, match="another schedule or space"):
        loaded(tmp_path, schedule=replace(SCHEDULE, seed=1))
    with pytest.raises(TrainingError, match="another schedule or space"):
        loaded(tmp_path, space=preset("mbv3-digits", classes=7))


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
    found = loaded(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(dataset: Dataset, tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    steps = train(state, dataset)
    next(steps)
    saved = save_checkpoint(state, tmp_path)
    state.supernet.head[4].bias.data[0] = math.nan
    before = {name: parameter.clone() for name, parameter in state.supernet.named_parameters()}
    with pytest.raises(
        TrainingError, match=r"the loss is nan and .* in phase largest, step 1,.*Lower learning_rate or set clip"
    ) as stopped:
        next(steps)
    assert f"the last good checkpoint is {saved}" in str(stopped.value)
    assert '{"resolution": ' in str(stopped.value)
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
    ("name", "opened", "gene"),
    [
        ("mbv3-digits", {"kernel_size": (3, 5)}, "7 of stage1.block1.kernel_size"),
        ("mbv3-digits", {"depth": (1,)}, "2 of stage1.depth"),
        ("spos-cifar", {"choice": (0, 1)}, "3 of stage1.block1.choice"),
    ],
)
def test_a_teacher_with_untrained_weights_is_refused_before_training(
    name: str, opened: dict[str, tuple[int, ...]], gene: str, dataset: Dataset
) -> None:
    space = preset(name, in_channels=1)
    phases = (Phase("some", 1, 0.1, opened), Phase("all", 1, 0.1, distillation=1.0))
    message = f"phase all: the teacher, .* phase some .* does not open {gene}. Open it in phase some, or"
    with pytest.raises(ValueError, match=message):
        next(train(TrainingState.fresh(space, Schedule(phases, 8)), dataset))
    without = Schedule((phases[0], replace(phases[1], distillation=0.0)), 8)
    assert next(train(TrainingState.fresh(space, without), dataset)).phase == "some"


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
        ({"phases": (Phase("x", 1, 0.1), Phase("x", 2, 0.1))}, "2 phases are called x; give each a name of its own"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0; a number of at least 0 and below 1"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2.0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"ema": 1.0}, "ema is 1.0; a number of at least 0 and below 1"),
        ({"micro_batches": 17}, "micro_batches is 17; a number of at least 1 and at most 16"),
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
    with pytest.raises(TrainingError, match=r"gradient's norm (inf|nan) in phase largest.*no checkpoint was saved yet"):
        next(steps)
    after = dict(state.supernet.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resuming_on_other_images_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    next(train(state, dataset))
    save_checkpoint(state, tmp_path)
    found = loaded(tmp_path)
    assert found is not None
    other = replace(dataset, holdout=dataset.holdout[:200])
    with pytest.raises(TrainingError, match=r"started on other images.*200 held out"):
        next(train(found, other))


def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path) -> None:
    state = TrainingState.fresh(SPACE, SCHEDULE)
    for keep in (3, 3, 3, 3, 1):
        save_checkpoint(state, tmp_path, keep=keep)
        kept = [int(path.stem) for path in sorted(tmp_path.glob("*.json"))]
        assert kept == [int(path.stem) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert kept == [5]


def test_resuming_where_other_bits_come_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(TrainingState.fresh(SPACE, SCHEDULE), tmp_path)
    assert loaded(tmp_path) is not None
    assert not caplog.records
    torch.set_num_threads(2)
    assert loaded(tmp_path) is not None
    assert "'threads': 1}, this is {" in caplog.text
    assert "training goes on, but not to the same bits" in caplog.text


def test_damaged_checkpoints_are_not_taken_for_none(tmp_path: Path) -> None:
    path = save_checkpoint(TrainingState.fresh(SPACE, SCHEDULE), tmp_path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(TrainingError, match=f"every checkpoint is damaged: {path}"):
        loaded(tmp_path)


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
    archs = [
        SPACE.decode(SPACE.sample(np.random.default_rng(0), 1, SPACE.open_choices(expand_ratio=(ratio,)))[0]).at(16)
        for ratio in (2, 3, 4)
    ]
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        before = [state.supernet.eval()(images, arch) for arch in archs]
        start_phase(state, phases[2])
        for arch, logits in zip(archs, before, strict=True):
            assert torch.allclose(state.supernet.eval()(images, arch), logits, atol=1e-5)


KILLED = replace(SCHEDULE, ema=0.9, batch_size=6, augmentation=Augmentation(crop=0.3, flip=True))
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.supernet.test_loop import KILLED, SPACE, TrainingState, load_checkpoint, photographs, save_checkpoint, train
folder = Path(sys.argv[1])
state = TrainingState.fresh(SPACE, KILLED)
load_checkpoint(state, folder / "checkpoints")
for progress in train(state, photographs(folder), workers=2):
    save_checkpoint(state, folder / "checkpoints")
    print(progress.step, flush=True)
torch.save(state.averaged().state_dict(), folder / "final.pt")
"""


@pytest.mark.slow
def test_killed_with_sigkill_at_random_steps_it_still_ends_bit_equal(tmp_path: Path) -> None:
    """It saves after every step, so kills land in forward passes and in the midst of writing checkpoints alike."""
    rng = np.random.default_rng(0)
    straight = TrainingState.fresh(SPACE, KILLED)
    for _ in train(straight, photographs(tmp_path)):
        pass

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    reached = 0
    for last in (rng.integers(1, 4), rng.integers(6, 9)):  # of 12, so that it ends before neither kill
        with start() as process:
            assert process.stdout is not None
            steps = [int(process.stdout.readline())]
            assert reached < steps[0] <= reached + 2, "it did not go on from the newest checkpoint"  # one may be unsaid
            while steps[-1] < last:
                steps.append(int(process.stdout.readline()))
            time.sleep(rng.random() * 0.05)
            process.kill()
            steps += [int(line) for line in process.stdout.read().splitlines()]
            assert process.wait() == -signal.SIGKILL
            reached = steps[-1]
    with start() as process:
        assert process.stdout is not None
        assert reached < int(process.stdout.readline()) <= reached + 2
        process.stdout.read()
    assert process.returncode == 0
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(value, final[key]) for key, value in straight.averaged().state_dict().items())
    position = json.loads(sorted((tmp_path / "checkpoints").glob("*.json"))[-1].read_text())
    assert position["phase"] == len(KILLED.phases)
