"""`supple train`: from one YAML file to a bundle. The training loop itself is in `supernet.training.loop`."""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from evolution.predictors.accuracy import AccuracyPredictor
from service.bundles.config import (
    LARGEST_HOLDOUT,
    TrainingConfig,
    config_json,
    evaluation_settings,
    initial_bundle,
    load_data,
)
from service.bundles.pairs import Pairs, stratified
from service.bundles.tracking import TrackedRun, check_trackers, track_result, tracked
from service.errors import InputError
from supernet.bundle import MANIFEST, Bundle, BundleError
from supernet.bundle_writing import write_bundle
from supernet.data import Dataset, check_images
from supernet.evaluation.evaluate import Evaluator, evaluate, perturbed
from supernet.evaluation.evaluate import batches as evaluation_batches
from supernet.files import sha256, write_atomically
from supernet.images.split import FileSplit
from supernet.networks import depthwise
from supernet.space import Architecture, SearchSpace
from supernet.streams import Stream, random_generator
from supernet.training import distributed
from supernet.training.checkpoints import CHECKPOINT_STEPS, load_checkpoint, train_resumably
from supernet.training.loop import TrainingState
from supernet.training.schedule import Phase
from supernet.training.start import start_from

log = logging.getLogger("supple.train")
SPLIT = "images.npz"  # in the folder of a run: which image files are in which split
PAIRS = "pairs.jsonl"  # in the folder of a run, until the bundle is written: the subnets measured so far


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of one stage of the run: `done` of `total`, and a remark for the progress bar."""

    stage: str
    done: int
    total: int
    detail: str = ""


def finished_bundle(config: TrainingConfig, folder: Path) -> Bundle | None:
    """The bundle that an earlier run of the same configuration wrote in `folder`, or None."""
    if not (folder / "bundle" / MANIFEST).is_file():
        return None
    try:
        bundle = Bundle.open(folder / "bundle")
    except BundleError as error:
        log.warning("%s; it will be written again", error)
        return None
    try:
        recorded = TypeAdapter(TrainingConfig).validate_python(bundle.manifest.get("config"))
    except ValidationError:  # the configuration of a version with other options
        return None
    return bundle if replace(recorded, log=()) == replace(config, log=()) else None  # a log changes no result


def train_bundle(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    data_root: Path,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    show_dataset: Callable[[Dataset], None] = lambda dataset: None,
) -> Iterator[Step]:
    """Train a supernet, measure subnets, fit the accuracy predictor and write `folder/bundle`. Yields progress.

    All image files are checked first. A checkpoint is written every `checkpoint_steps` steps and at the end of each
    phase. A run that was killed continues from the newest checkpoint when called with `resume`, or when torchrun
    restarts it; image files that were lost meanwhile are replaced by others. With several processes, all of them train
    and the first does the rest. Does nothing if `finished_bundle` finds a bundle.

    show_dataset: called with the dataset, on the first process, before training.

    Raises:
        InputError: the folder holds checkpoints and `resume` is false.
        ValueError: the configuration does not fit the space or the data.
        OSError: the disk is full; existing files are intact.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = distributed.choose_device(config.device)
    checkpoints = folder / "checkpoints"
    with distributed.process_group(device):
        if distributed.from_first_process(lambda: finished_bundle(config, folder) is not None):
            (folder / PAIRS).unlink(missing_ok=True)  # left by a process that was killed after it wrote the bundle
            return
        check_trackers(config.log)
        if config.schedule.precision == "bf16" and device.type == "cpu" and not depthwise.SUPPORTED[torch.bfloat16]:
            log.warning("precision is bf16, for which this processor has no kernels; fp32 is most likely faster")
        if distributed.is_first():
            for done, total in check_images(config.dataset.source, data_root):
                yield Step("check images", done, total)
        resuming = distributed.from_first_process(lambda: resume or distributed.restarted())
        run_split = distributed.from_first_process(lambda: _read_split(folder) if resuming else None)
        dataset, space = distributed.in_turns(lambda: load_data(config, data_root, run_split))
        if distributed.is_first():
            show_dataset(dataset)
        state = TrainingState.fresh(space, config.schedule, device)
        start = start_of(config, state, dataset)
        if load_checkpoint(state, checkpoints) and not resuming:
            run = "an unfinished run" if state.phase < len(config.schedule.phases) else "a finished training run"
            raise InputError(
                f"{checkpoints} holds {run}; pass `resume` to continue it, or choose another folder", "resume"
            )
        distributed.from_first_process(lambda: _keep_split(dataset, folder))
        calibration = dataset.train[: config.evaluation.calibration_images]
        holdout = dataset.holdout[:LARGEST_HOLDOUT]

        def record_corners(state: TrainingState) -> None:
            evaluator = Evaluator(state.averaged(), dataset.normalization, calibration, holdout)
            state.curves[-1]["corners"] = _corner_accuracies(evaluator, space, config.schedule.phases[state.phase - 1])

        steps = train_resumably(
            state,
            dataset,
            checkpoints,
            workers=config.dataset.workers,
            steps=checkpoint_steps,
            keep=config.keep_checkpoints,
            at_phase_end=record_corners,
        )
        for progress in tracked(steps, state, _tracked_run(config, folder)):
            speed = f"{progress.images_per_second:.0f} img/s"
            detail = f"{progress.phase} {progress.epoch}, loss {progress.loss:.2f}, {speed}"
            yield Step("train", progress.step, progress.total_steps, detail)
    if distributed.is_first():
        yield from _make_bundle(config, folder, state, dataset, start)


def _read_split(folder: Path) -> FileSplit | None:
    """Which image files are in which split of the run in a folder; None if it has no checkpoint yet, or no files."""
    path = folder / SPLIT
    if not path.is_file() or not any((folder / "checkpoints").glob("[0-9]*.json")):
        return None
    return FileSplit.from_bytes(path.read_bytes())


def _keep_split(dataset: Dataset, folder: Path) -> None:
    if dataset.split is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SPLIT, dataset.split.to_bytes())


def start_of(config: TrainingConfig, state: TrainingState, dataset: Dataset) -> dict[str, Any] | None:
    """Give a fresh state the weights of the configuration's `init`. What was taken and what is new, for the report."""
    bundle = initial_bundle(config)
    if bundle is None:
        return None
    same_classes = tuple(bundle.classes) == dataset.classes
    tensors = start_from(state, bundle.supernet(), same_classes=same_classes, identity=bundle.hash)
    return {"bundle": bundle.hash, "name": bundle.name, "path": str(bundle.path), **tensors}


def _make_bundle(
    config: TrainingConfig, folder: Path, state: TrainingState, dataset: Dataset, start: Mapping[str, Any] | None
) -> Iterator[Step]:
    """Measure subnets of a trained supernet, fit the accuracy predictor and write the bundle."""
    supernet, views = state.averaged(), config.evaluation.views
    space = supernet.space
    calibration = dataset.train[: config.evaluation.calibration_images]
    holdout = dataset.holdout[:LARGEST_HOLDOUT]
    evaluator = Evaluator(supernet, dataset.normalization, calibration, perturbed(holdout, views))
    rng = random_generator(config.schedule.seed, Stream.PREDICTOR)
    genomes = stratified(space, rng, config.evaluation.subnets)
    assert state.checkpoint is not None  # since the end of the last phase, at the latest
    measured_on = {"weights": sha256(state.checkpoint), **evaluation_settings(config)}
    if dataset.lost_files:
        measured_on["lost_images"] = list(dataset.lost_files)
    pairs = Pairs(folder / PAIRS, measured_on)
    for done, scored in pairs.measure(evaluator, space, genomes):
        yield Step("measure subnets", done, len(genomes), f"accuracy {scored.accuracy:.3f}")
    predictor = AccuracyPredictor.fit(space, genomes, *pairs.scores(genomes), rng, config.evaluation.predictor)

    report = {
        "corners": {
            name: _corner(evaluator, dataset, arch)
            for name, arch in (("largest", space.largest()), ("smallest", space.smallest()))
        },
        "predictor": predictor.card,
        "images": {
            "classes": dataset.class_counts(),
            "rare": dataset.rare_classes(),
            "remarks": list(dataset.remarks),
            "lost": list(dataset.lost_files),
        },
        "init": start,
        "phases": _phases(state.curves),
        "curves": state.curves,
    }
    write_bundle(
        folder / "bundle",
        name=config.name,
        space=space,
        supernet=supernet,
        classes=dataset.classes,
        normalization=dataset.normalization,
        calibration=calibration,
        holdout=holdout,
        views=views,
        predictor=predictor.to_bytes(),
        pairs=pairs.measured(space, genomes).to_bytes(),
        report=report,
        provenance={
            "dataset": config.dataset.source,
            "images": {"train": len(dataset.train), "holdout": len(dataset.holdout)},
            "config": config_json(config),
            "versions": {
                **{package: version(package) for package in ("supple", "torch", "numpy")},
                "python": platform.python_version(),
            },
        },
    )
    pairs.path.unlink(missing_ok=True)
    track_result(_result(report), state, _tracked_run(config, folder))
    yield Step("write the bundle", 1, 1, str(folder / "bundle"))


def _tracked_run(config: TrainingConfig, folder: Path) -> TrackedRun:
    """What the trackers are told of a run. Only the first process tells it."""
    return TrackedRun(config.log if distributed.is_first() else (), folder, config.name, config_json(config))


def _result(report: Mapping[str, Any]) -> dict[str, float]:
    """What a finished run amounts to, as scalars: accuracies of the corner subnets and errors of the predictor."""
    splits = {
        f"result/{name}_{split}_accuracy": corner[split]["accuracy"]
        for name, corner in report["corners"].items()
        for split in ("holdout", "test")
        if corner[split] is not None
    }
    card = {f"predictor/{name}": value for name, value in report["predictor"].items() if isinstance(value, float)}
    return splits | card


def _corner_accuracies(evaluator: Evaluator, space: SearchSpace, phase: Phase) -> dict[str, float]:
    """Accuracy on the holdout, after recalibration, of the largest and the smallest subnet of a phase."""
    choices = space.open_choices(**phase.open)
    accuracies = {}
    for name, end in (("largest", -1), ("smallest", 0)):
        arch = space.decode(np.array([indices[end] for indices in choices], np.int8))
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        accuracies[name] = scored.accuracy
    return accuracies


def _phases(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per phase: epochs, images per second, peak memory; loss and accuracy of the corner subnets at its end."""
    phases = []
    for name, epochs in groupby(curves, key=itemgetter("phase")):
        lines = list(epochs)
        seconds = sum(line["seconds"] for line in lines)
        phases.append(
            {
                "phase": name,
                "epochs": len(lines),
                "loss": lines[-1]["loss"],
                "seconds": round(seconds, 1),
                "images_per_second": round(sum(line["images"] for line in lines) / seconds, 1),
                "peak_memory_bytes": max(line["peak_memory_bytes"] for line in lines),
                "corners": lines[-1]["corners"],
            }
        )
    return phases


def _corner(evaluator: Evaluator, dataset: Dataset, arch: Architecture) -> dict[str, Any]:
    """One corner subnet's scores on the holdout, as it is and perturbed, and on the test split if there is one."""
    network = evaluator.subnet(arch)
    device = next(network.parameters()).device
    scored = evaluator.evaluate(network, arch.resolution)
    splits = {"holdout": dataset.holdout, "test": dataset.test}
    plain = {
        name: None
        if images is None
        else asdict(evaluate(network, evaluation_batches(images, arch.resolution, dataset.normalization, device)))
        for name, images in splits.items()
    }
    return {"arch": arch.to_json(), "views": asdict(scored) if scored else None, **plain}
