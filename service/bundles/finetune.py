"""`supple finetune`: a subnet becomes a network of its own, trained further on the images of its supernet."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.bundles.config import TrainingConfig, recorded_config
from service.bundles.images import training_images
from service.errors import InputError
from supernet.bundle import WEIGHTS, Bundle, BundleError, Training
from supernet.data import Dataset
from supernet.evaluation.calibrate import recalibrate
from supernet.evaluation.evaluate import Evaluator, batches, evaluate
from supernet.evaluation.metrics import Evaluation
from supernet.export.parity import export_metadata, export_subnet
from supernet.files import write_atomically
from supernet.space import Architecture
from supernet.training import distributed
from supernet.training.checkpoints import CHECKPOINT_STEPS, train_resumably
from supernet.training.loop import TrainingState
from supernet.training.schedule import Schedule
from supernet.training.standalone import named_weights, random_network, stand_alone

CARD, NETWORK, ONNX = "finetuned.json", "network.safetensors", "network.onnx"  # in the folder of a run
DISTILLATION = 1.0  # `python -m benchmarks.finetune` compares this and the default learning rate with others
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a subnet is trained alone.

    from_scratch: start from random weights, with the recipe's first learning rate (Single-Path One-Shot,
    arXiv:1904.00420, retrains so); otherwise from the supernet's weights.
    learning_rate: None takes the recipe's last phase's, or from scratch the first phase's.
    distillation: weight of the soft labels of the bundle's largest network; None takes `DISTILLATION`, from scratch 0.
    seed: of the order of images, of augmentation and of random weights.
    """

    epochs: int
    from_scratch: bool = False
    learning_rate: float | None = None
    distillation: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"`epochs` is {self.epochs}; at least 1 is needed", "epochs")
        if self.learning_rate is not None and not 0 < self.learning_rate < 100:
            raise InputError(f"`learning_rate` is {self.learning_rate}; it is above 0 and below 100", "learning_rate")
        if self.distillation is not None and not 0 <= self.distillation < 100:
            raise InputError(f"`distillation` is {self.distillation}; it is at least 0 and below 100", "distillation")
        if self.seed < 0:
            raise InputError(f"`seed` is {self.seed}; at least 0 is needed", "seed")

    @property
    def training(self) -> Training:
        """What a bundle and an ONNX file call a network trained so."""
        return "from-scratch" if self.from_scratch else "fine-tuned"

    def settled(self, config: TrainingConfig) -> dict[str, Any]:
        """The settings as JSON, with the recipe's values in place of None."""
        rate = config.schedule.phases[0 if self.from_scratch else -1].learning_rate
        weight = 0.0 if self.from_scratch else DISTILLATION
        return {
            "training": self.training,
            "epochs": self.epochs,
            "learning_rate": rate if self.learning_rate is None else self.learning_rate,
            "distillation": weight if self.distillation is None else self.distillation,
            "seed": self.seed,
        }


def fine_tune(
    bundle: Bundle,
    arch: Architecture,
    plan: Plan,
    folder: Path,
    *,
    images: str | None = None,
    data_root: Path,
    progress: Progress = lambda stage, done, total, remark: None,
    checkpoint_steps: int = CHECKPOINT_STEPS,
) -> dict[str, Any]:
    """Train a subnet alone and write its weights, its ONNX file and its card to a folder. Returns the card.

    The recipe, the images and the split into training and held-out images are the supernet's. The network is scored on
    the bundle's held-out images before and after. A run that was killed continues from its newest checkpoint; a run
    that is finished is only read.

    images: the folder of the images, or of downloads and archives for a named dataset, if they do not lie where the
    bundle says. data_root: for downloads and for the results of checks.

    Raises:
        BundleError: the bundle records no recipe, or lacks weights or images. InputError: a setting cannot be used.
        TrainingError (a ValueError): the loss is not finite, or the folder holds an unfinished run of another kind.
        ValueError: the images are not those of the bundle. ExportError (a ValueError): the network cannot be written.
        OSError: the disk is full; earlier checkpoints are intact.
    """
    config = recorded_config(bundle)
    if "holdout.npz" not in bundle.manifest["files"]:
        raise BundleError(f"{bundle.path} has no held-out images, so a fine-tuned network could not be verified")
    bundle.space.encode(arch)  # refuses an architecture of another space
    settings = {**plan.settled(config), "weights_sha256": bundle.manifest["files"].get(WEIGHTS)}
    finished = _finished(folder, bundle, arch, settings)
    if finished is not None:
        return finished
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    evaluator = bundle.evaluator()
    inherited = evaluator.subnet(arch)
    dataset = training_images(bundle, config, images, data_root, progress)
    before = _scores(evaluator, inherited, arch, dataset)
    state = _start(evaluator, inherited, arch, config.schedule, settings)
    for done in train_resumably(
        state, dataset, folder / "checkpoints", workers=config.dataset.workers, steps=checkpoint_steps
    ):
        speed = f"{done.images_per_second:.0f} img/s"
        progress(plan.training, done.step, done.total_steps, f"epoch {done.epoch}, loss {done.loss:.2f}, {speed}")
    network = state.averaged().extract(arch).cpu().eval()
    if config.schedule.ema is not None:  # the statistics are of the weights that were not averaged
        calibration = dataset.train[: config.evaluation.calibration_images]
        recalibrate(network, (pixels for pixels, _ in batches(calibration, arch.resolution, dataset.normalization)))
    after, views = _scores(evaluator, network, arch, dataset), max(1, bundle.manifest["views"]["count"])
    card = {
        "id": bundle.space.id(arch),
        "arch": arch.to_json(),
        **settings,
        "images": {"train": len(dataset.train), "holdout": after["views"]["images"] // views},
        "inherited": before,
        plan.training: after,
        "curves": state.curves,
        "versions": {package: version(package) for package in ("supple", "torch", "numpy")},
    }
    _write(folder, bundle, evaluator, arch, network, card)
    return card


def verified_accuracies(card: Mapping[str, Any]) -> tuple[float, float]:
    """From a card: the verified accuracy with the inherited weights, and after training alone."""
    return card["inherited"]["views"]["accuracy"], card[card["training"]]["views"]["accuracy"]


def _start(
    evaluator: Evaluator,
    inherited: nn.Sequential,
    arch: Architecture,
    schedule: Schedule,
    settings: Mapping[str, Any],
) -> TrainingState:
    """The state before the first step.

    inherited: the subnet, with statistics of its own, since a few steps change statistics little.
    settings: from `Plan.settled`.
    """
    space, from_scratch = evaluator.supernet.space, settings["training"] == "from-scratch"
    teacher = evaluator.subnet(space.largest()) if settings["distillation"] else None
    return stand_alone(
        space,
        arch,
        random_network(space, arch, settings["seed"]) if from_scratch else inherited,
        schedule,
        settings["epochs"],
        settings["seed"],
        distributed.choose_device(None),
        learning_rate=settings["learning_rate"],
        warmup_epochs=None if from_scratch else min(1, settings["epochs"] / 10),
        teacher=teacher,
        distillation=settings["distillation"],
        start=f"{settings['training']} {settings['weights_sha256']}",
    )


def _scores(evaluator: Evaluator, network: nn.Module, arch: Architecture, dataset: Dataset) -> dict[str, Any]:
    """Scores on the held-out images, perturbed as those of verification are, and on the test split if there is one."""
    scored = evaluator.evaluate(network, arch.resolution)
    assert scored is not None
    test: Evaluation | None = None
    if dataset.test is not None:
        test = evaluate(network, batches(dataset.test, arch.resolution, dataset.normalization))
    return {"views": asdict(scored), "test": None if test is None else asdict(test)}


def _write(
    folder: Path,
    bundle: Bundle,
    evaluator: Evaluator,
    arch: Architecture,
    network: nn.Sequential,
    card: dict[str, Any],
) -> None:
    """Write the weights, the ONNX file and, last, the card; then remove the checkpoints."""
    from safetensors.torch import save

    _, accuracy = verified_accuracies(card)
    metadata = export_metadata(bundle, arch, batch_norm="trained", verified_accuracy=accuracy)
    metadata |= training_metadata(card)
    file = export_subnet(network, evaluator.sample(arch.resolution), metadata)
    card["onnx"] = {"bytes": len(file.data), "difference": file.difference}
    one_entry = {"supple": json.dumps(metadata, sort_keys=True)}  # safetensors writes several in no fixed order
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NETWORK, save(named_weights(bundle.space, arch, network), one_entry))
    write_atomically(folder / ONNX, file.data)
    write_atomically(folder / CARD, json.dumps(card, indent=1).encode())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def training_metadata(card: Mapping[str, Any]) -> dict[str, str]:
    """From a card: what the metadata of its network's files says about how it was trained."""
    names = ("training", "epochs", "learning_rate", "distillation", "seed")
    inherited, _ = verified_accuracies(card)
    return {**{name: str(card[name]) for name in names}, "inherited_accuracy": json.dumps(inherited)}


def _finished(folder: Path, bundle: Bundle, arch: Architecture, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of a finished run with these settings in the folder, if there is one."""
    path = folder / CARD
    if not path.is_file():
        return None
    card: dict[str, Any] = json.loads(path.read_text())
    same = card["id"] == bundle.space.id(arch) and all(card.get(name) == value for name, value in settings.items())
    return card if same and not (folder / "checkpoints").exists() else None
