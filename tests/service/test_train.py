"""`supple train` for the families that the demo does not train: from a configuration to a bundle that answers."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evolution.predictors.fitting import MIN_PAIRS
from service.bundles import config as training_config
from service.bundles.config import DatasetConfig, EvaluationConfig, TrainingConfig, load_data, read_config
from service.bundles.export import export_subnet_of
from service.bundles.search import search_bundle
from service.bundles.train import finished_bundle, train_bundle
from service.errors import InputError
from supernet.bundle import Bundle
from supernet.costs.architecture import of_architecture
from supernet.data import Dataset
from supernet.families import preset
from supernet.networks import depthwise
from supernet.space import Architecture
from supernet.training.schedule import Phase, Schedule
from tests.support.bundles import write
from tests.support.photographs import photographs

pytestmark = pytest.mark.slow  # it trains, or starts processes

PHASES = (
    Phase("all", 1, 0.02, sampler="strict_fair"),
    Phase("sorted", 1, 0.01, distillation=1.0, sort_channels=True),
)


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_on_a_processor_without_kernels_for_it_is_warned_of(
    fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(depthwise.SUPPORTED, torch.bfloat16, fast)
    schedule = Schedule(PHASES[:1], batch_size=8, precision="bf16")
    config = TrainingConfig("half", "mbv3-digits", DatasetConfig("digits", holdout=1400), schedule, device="cpu")
    next(train_bundle(config, tmp_path, data_root=tmp_path))
    assert ("fp32 is most likely faster" in caplog.text) == (not fast)


def test_images_are_kept_at_the_largest_side_that_a_phase_grows_to(tmp_path: Path) -> None:
    sides = []
    for growing in ((), (8, 24)):
        schedule = Schedule((replace(PHASES[0], growing=growing),), batch_size=8)
        config = TrainingConfig("x", "mbv3-digits", DatasetConfig("digits", holdout=1400), schedule)
        sides.append(load_data(config, tmp_path)[0].train[:1].pixels.shape[-1])
    assert sides == [16, 24]


def test_a_bundle_of_before_an_option_there_is_now_is_still_the_finished_one(tmp_path: Path) -> None:
    config = TrainingConfig("x", "mbv3-digits", DatasetConfig("digits", holdout=300), Schedule(PHASES, batch_size=8))
    recorded = json.loads(json.dumps(asdict(config)))
    for phase in recorded["schedule"]["phases"]:
        del phase["growing"]
    write(tmp_path / "bundle", provenance={"config": recorded})
    assert finished_bundle(config, tmp_path) is not None
    (tmp_path / "pairs.jsonl").write_text("")  # as a process leaves it that is killed right after it wrote the bundle
    assert list(train_bundle(config, tmp_path, data_root=tmp_path)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert finished_bundle(replace(config, name="y"), tmp_path) is None
    write(tmp_path / "bundle", provenance={"config": {**recorded, "abolished": 1}})
    assert finished_bundle(config, tmp_path) is None


def test_a_run_goes_on_after_an_image_was_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("cat", 12), ("dog", 12), ("owl", 1)):
        (tmp_path / "img" / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8)).save(tmp_path / "img" / name / f"{number}.png")

    def small(name: str, *, classes: int | None = None, in_channels: int | None = None) -> object:
        return replace(preset(name, classes=classes, in_channels=in_channels), resolutions=(8,))

    monkeypatch.setattr(training_config, "preset", small)
    data = DatasetConfig(str(tmp_path / "img"), holdout=6)
    schedule = Schedule((replace(PHASES[0], epochs=2),), batch_size=4)
    config = TrainingConfig("x", "mbv3-digits", data, schedule, EvaluationConfig(MIN_PAIRS, 8), threads=1)
    run = tmp_path / "run"
    shown: list[Dataset] = []
    steps = train_bundle(config, run, data_root=tmp_path / "data", checkpoint_steps=1, show_dataset=shown.append)
    next(step for step in steps if step.stage == "train" and step.done == 3)  # with a checkpoint
    del steps
    assert shown[0].lost_files == ()
    with pytest.raises(InputError, match="holds an unfinished run; pass `resume`"):
        next(step for step in train_bundle(config, run, data_root=tmp_path / "data") if step.stage == "train")
    (tmp_path / "img/cat/3.png").unlink()
    stages = [step.stage for step in train_bundle(config, run, resume=True, data_root=tmp_path / "data")]
    assert stages.count("train") == 5
    report = Bundle.open(run / "bundle").report["images"]
    assert report["lost"] == ["cat/3.png"]
    assert report["rare"] == ["cat", "dog", "owl"]
    assert report["classes"]["owl"] == {"train": 1, "holdout": 0}


def test_training_starts_from_a_bundle_and_says_what_is_taken_and_new(tmp_path: Path) -> None:
    write(tmp_path / "other")
    schedule = Schedule((Phase("all", 1, 0.01, sampler="sandwich", subnets_per_step=2),), batch_size=8)
    dataset, evaluation = DatasetConfig("digits", holdout=1400), EvaluationConfig(MIN_PAIRS, 8)
    config = TrainingConfig("x", "", dataset, schedule, evaluation, threads=1, init=str(tmp_path / "other"))
    for _ in train_bundle(config, tmp_path / "run", data_root=tmp_path):
        pass
    bundle, other = Bundle.open(tmp_path / "run" / "bundle"), Bundle.open(tmp_path / "other")
    assert bundle.space == other.space
    assert bundle.normalization == other.normalization
    start = bundle.report["init"]
    assert (start["bundle"], start["name"], start["new"]) == (other.hash, "small", [])
    assert set(start["taken"]) == set(other.supernet().state_dict())


def test_the_recipe_for_a_start_runs_in_the_space_of_any_bundle_for_other_classes(tmp_path: Path) -> None:
    write(tmp_path / "other", classes=tuple("abcdefghij"))
    recipe = read_config(Path(__file__).parents[2] / "configs" / "start.yaml")
    (phase,) = recipe.schedule.phases
    config = replace(
        recipe,
        init=str(tmp_path / "other"),
        dataset=DatasetConfig("digits", holdout=1400, workers=0),
        evaluation=EvaluationConfig(MIN_PAIRS, 8),
        schedule=replace(recipe.schedule, batch_size=8, phases=(replace(phase, epochs=2),)),
        threads=1,
    )
    for _ in train_bundle(config, tmp_path / "run", data_root=tmp_path):
        pass
    bundle = Bundle.open(tmp_path / "run" / "bundle")
    assert bundle.report["init"]["new"] == ["head.4.bias", "head.4.weight"]
    assert bundle.report["curves"][-1]["loss"] < bundle.report["curves"][0]["loss"]


@pytest.mark.parametrize(
    ("space", "weights", "message"),
    [
        ("mbv3-cifar", True, "space is mbv3-cifar, but `init`, .*other, has the space mbv3-digits; leave `space` out"),
        ("", False, "made without a checkpoint.*so no training can start from it"),
        ("", None, "other is not a bundle"),
    ],
)
def test_a_bundle_that_training_cannot_start_from_is_refused(
    tmp_path: Path, space: str, weights: bool | None, message: str
) -> None:
    if weights is not None:
        write(tmp_path / "other", **({} if weights else {"supernet": None}))
    config = TrainingConfig("x", space, DatasetConfig("digits", 300), Schedule(PHASES, 8), init=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=message):
        load_data(config, tmp_path)


@pytest.mark.parametrize("name", ["fairnas-cifar", "spos-cifar", "spos-cifar-channels", "resnet-cifar"])
def test_a_short_training_ends_in_a_bundle_that_searches_and_exports(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(name: str, *, classes: int | None = None, in_channels: int | None = None) -> object:
        return replace(preset(name, classes=classes, in_channels=in_channels), resolutions=(8,))

    monkeypatch.setattr(training_config, "preset", small)
    photographs(tmp_path)
    config = TrainingConfig(
        "short",
        name,
        DatasetConfig(str(tmp_path), holdout=4, channels=1, cache_gib=0, workers=0),
        Schedule(PHASES, batch_size=8, clip=2.0),
        EvaluationConfig(subnets=MIN_PAIRS, calibration_images=8),
        threads=1,
    )
    for _ in train_bundle(config, tmp_path, data_root=tmp_path):
        pass
    bundle = Bundle.open(tmp_path / "bundle")
    assert (bundle.space.classes, bundle.space.in_channels, bundle.space.resolutions) == (2, 1, (8,))
    assert [(phase["phase"], phase["epochs"]) for phase in bundle.report["phases"]] == [("all", 1), ("sorted", 1)]
    for phase in bundle.report["phases"]:
        assert set(phase["corners"]) == {"largest", "smallest"}
        assert phase["images_per_second"] > 0
        assert phase["peak_memory_bytes"] > 2**20
    curves = bundle.report["curves"]
    assert [(curve["phase"], curve["epoch"]) for curve in curves] == [("all", 1), ("sorted", 1)]
    assert all(curve["loss"] > 0 and curve["steps"] > 0 for curve in curves)
    rng = np.random.default_rng(0)
    limit = of_architecture(bundle.space, bundle.space.decode(bundle.space.sample(rng, 1)[0]))["flops"]
    best = search_bundle(bundle, {"flops": limit}, evaluations=50)["best"]
    assert best["flops"] <= limit
    exported = export_subnet_of(bundle, Architecture.from_json(best["arch"]), tmp_path / "best.onnx")
    costs = of_architecture(bundle.space, Architecture.from_json(best["arch"]), bundle.classes)
    assert exported["bytes"] <= costs["model_bytes"] <= 1.01 * exported["bytes"] + 4096
