"""`supple finetune`: what it trains, on which images, what the bundle gets, and that it goes on after a kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from service.bundles.config import DatasetConfig
from service.bundles.finetune import CARD, NETWORK, ONNX, Plan, fine_tune
from service.bundles.images import training_images
from supernet.bundle import Bundle, BundleError
from supernet.data import Images
from supernet.export.parity import run_onnx
from supernet.space import Architecture
from supernet.training.loop import TrainingError
from tests.support.bundles import SPACE, write
from tests.support.command_line import Ran, refused
from tests.support.trainable import CONFIG, HELD_OUT, write_trainable

pytestmark = pytest.mark.slow  # it trains

SMALLEST = SPACE.smallest()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_trainable(tmp_path_factory.mktemp("template") / "bundle").path


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Bundle:
    return write_trainable(tmp_path / "bundle")


def train(bundle: Bundle, folder: Path, plan: Plan = Plan(2), **options: Any) -> dict[str, Any]:  # noqa: B008
    return fine_tune(bundle, SMALLEST, plan, folder, data_root=folder.parent, **options)


def test_the_command_trains_verifies_labels_and_adds_the_network_to_the_bundle(
    bundle: Bundle, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    command = ("finetune", str(bundle.path), "--arch", "smallest", "--epochs", "3", "--json")
    ran = run(*command)
    assert ran.code == 0, ran.stderr
    card = json.loads(ran.stdout)
    folder = tmp_path / "bundle.finetuned" / f"fine-tuned-{SPACE.id(SMALLEST)}"
    assert json.loads((folder / CARD).read_text()) == card
    assert not (folder / "checkpoints").exists()
    assert (card["training"], card["epochs"], card["seed"], card["distillation"]) == ("fine-tuned", 3, 0, 1.0)
    assert card["images"] == {"train": 138, "holdout": HELD_OUT}
    assert card["fine-tuned"]["views"]["accuracy"] > card["inherited"]["views"]["accuracy"]
    assert card["fine-tuned"]["views"]["images"] == HELD_OUT

    after = Bundle.open(bundle.path)
    assert after.stand_alone == {folder.name: card}
    network = after.stand_alone_network(SMALLEST, "fine-tuned")
    images = after.evaluator().sample(SMALLEST.resolution)
    file = (folder / ONNX).read_bytes()
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(file, images.numpy()), network(images).numpy(), atol=1e-4)
    scored = after.evaluator().evaluate(network, SMALLEST.resolution)
    assert scored is not None
    assert scored.accuracy == card["fine-tuned"]["views"]["accuracy"]
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(file).metadata_props}
    assert (metadata["training"], metadata["batch_norm"], metadata["epochs"]) == ("fine-tuned", "trained", "3")
    assert float(metadata["verified_accuracy"]) == scored.accuracy
    assert float(metadata["inherited_accuracy"]) == card["inherited"]["views"]["accuracy"]

    again = run(*command)
    assert json.loads(again.stdout) == card
    assert "images" not in again.stderr, "it trained again"
    assert Bundle.open(bundle.path).hash == after.hash
    export = ("export", str(bundle.path), "-o", str(tmp_path / "again.onnx"), "--arch")
    exported = run(*export, "smallest", "--weights", "fine-tuned")
    assert exported.code == 0, exported.stderr
    logits = [run_onnx(data, images.numpy()) for data in ((tmp_path / "again.onnx").read_bytes(), file)]
    np.testing.assert_array_equal(logits[0], logits[1])
    refused(
        run(*export, "largest", "--weights", "from-scratch"),
        2,
        "has no from-scratch network of the architecture .* Run `supple finetune`",
    )


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(
    bundle: Bundle, tmp_path: Path, from_scratch: bool
) -> None:
    plan = Plan(3, from_scratch, distillation=0.5)
    train(bundle, tmp_path / "straight", plan)

    def die(stage: str, done: int, total: int, remark: str) -> None:
        assert (stage, total) == (plan.training, 6)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(bundle, tmp_path / "killed", plan, progress=die, checkpoint_steps=2)
    with pytest.raises(TrainingError, match="another schedule or space"):
        train(bundle, tmp_path / "killed", replace(plan, epochs=4))
    steps: list[int] = []
    card = train(bundle, tmp_path / "killed", plan, progress=lambda _, done, *__: steps.append(done))
    assert steps[0] > 2
    assert steps[-1] == 6
    files = [(tmp_path / name / NETWORK).read_bytes() for name in ("straight", "killed")]
    assert files[0] == files[1]
    assert card["training"] == ("from-scratch" if from_scratch else "fine-tuned")


def test_from_scratch_starts_from_random_weights_that_follow_from_the_seed(bundle: Bundle, tmp_path: Path) -> None:
    plans = [Plan(1, True), Plan(1, True, seed=1), Plan(1)]
    cards = [train(bundle, tmp_path / str(number), plan) for number, plan in enumerate(plans)]
    assert len({(tmp_path / str(number) / NETWORK).read_bytes() for number in range(3)}) == 3
    assert [card["learning_rate"] for card in cards] == [0.05, 0.05, 0.02]
    assert [card["distillation"] for card in cards] == [0, 0, 1]


def folder_of_images(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / ["cat", "dog"][number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_held_out_images_stay_held_out_when_images_are_added_and_lost_ones_are_refused(
    tmp_path: Path, cache_gib: float
) -> None:
    images = folder_of_images(tmp_path / "img", 20)
    config = replace(CONFIG, dataset=DatasetConfig(str(images), 6, cache_gib=cache_gib, workers=0))
    bundle = write_trainable(tmp_path / "bundle", config)
    held_out = bundle.holdout()
    assert held_out is not None

    def pixels(part: Any) -> set[bytes]:
        decoded: Images = part[:]
        return {image.numpy().tobytes() for image in decoded.pixels}

    same = training_images(bundle, config, None, tmp_path)
    assert torch.equal(same.holdout.pixels, held_out.pixels)
    folder_of_images(images, 30)
    more = training_images(bundle, config, None, tmp_path)
    assert torch.equal(more.holdout.pixels, held_out.pixels)
    assert pixels(more.train).isdisjoint(pixels(held_out))
    assert 18 <= len(more.train) <= 24
    assert len(more.train) == len(more.train.labels)

    moved = images.rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="which is no folder here"):
        training_images(bundle, config, None, tmp_path)
    assert len(training_images(bundle, config, str(moved), tmp_path).train) == len(more.train)
    for path in moved.rglob("00*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"of the bundle's 6 held-out images are not among the images of .*elsewhere"):
        training_images(bundle, config, str(moved), tmp_path)


def test_images_of_other_classes_are_refused(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "img", 20)
    config = replace(CONFIG, dataset=DatasetConfig(str(images), 6))
    bundle = write_trainable(tmp_path / "bundle", config)
    (images / "dog").rename(images / "owl")
    with pytest.raises(ValueError, match=r"has 2 classes and 1 channels, other ones than .* with 2 classes"):
        training_images(bundle, config, None, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provenance": {}}, "was not made by `supple train`"),
        ({"holdout": None}, "has no held-out images, so a fine-tuned network could not be verified"),
        ({"supernet": None}, "made without a checkpoint"),
    ],
)
def test_a_bundle_without_recipe_images_or_weights_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    bundle = write_trainable(tmp_path / "bundle", **changes)
    with pytest.raises(BundleError, match=message):
        train(bundle, tmp_path / "out")


def test_settings_and_architectures_that_cannot_be_used_are_refused(
    bundle: Bundle, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    command = ("finetune", str(bundle.path), "--epochs", "1", "-o", str(tmp_path / "out"), "--arch")
    refused(run(*command, "smallest", "--learning-rate", "0"), 2, "--learning-rate is 0.0; it is above 0")
    refused(run(*command, "smallest", "--distillation", "-1"), 2, "--distillation is -1.0; it is at least 0")
    other = Architecture(SMALLEST.resolution, SMALLEST.stages[:1])
    refused(run(*command, json.dumps(other.to_json())), 2, "stages")
    assert not list(tmp_path.glob("out/*"))


def test_a_bundle_without_such_networks_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="it has none"):
        write(tmp_path / "bundle").stand_alone_network(SMALLEST, "fine-tuned")
