"""`supple rank`: does inherited accuracy rank subnets as their accuracy after training alone from scratch does?"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evolution.arrays import Floats
from evolution.predictors.validation import kendall_tau, spearman_rho, tau_interval
from service.bundles.config import LARGEST_HOLDOUT, TrainingConfig, evaluation_settings, load_data, recorded_config
from service.bundles.train import start_of
from supernet.bundle import Bundle
from supernet.data import Dataset
from supernet.evaluation.evaluate import Evaluator, perturbed
from supernet.files import Journal
from supernet.networks.supernet import Supernet
from supernet.space import Architecture, Genomes, SearchSpace
from supernet.streams import Stream, random_generator
from supernet.training import distributed
from supernet.training.checkpoints import train_resumably
from supernet.training.loop import TrainingState
from supernet.training.schedule import Schedule
from supernet.training.standalone import random_network, stand_alone

SAMPLERS = ("uniform", "strict_fair")
Progress = Callable[[str, int, int, str], None]


def rank_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    nets: int,
    epochs: int | None,
    seed: int,
    data_root: Path,
    progress: Progress = lambda stage, done, total, remark: None,
) -> dict[str, Any]:
    """`rank_config` for the configuration that a bundle was trained with.

    Raises:
        BundleError: the bundle was not trained from a configuration. Also what `rank_config` raises.
    """
    return rank_config(
        recorded_config(bundle), folder, nets=nets, epochs=epochs, seed=seed, data_root=data_root, progress=progress
    )


def rank_config(
    config: TrainingConfig,
    folder: Path,
    *,
    nets: int,
    epochs: int | None,
    seed: int,
    data_root: Path,
    progress: Progress = lambda stage, done, total, remark: None,
) -> dict[str, Any]:
    """Train a supernet with each of two samplers, and random subnets alone with two seeds; the report as JSON.

    With `init`, supernets and subnets alike start from the weights of that bundle, subnets from their slice of it: then
    the ranking is of what each subnet becomes if it alone is trained on from these weights.

    nets: how many subnets. epochs: for a subnet alone; None: as many as the configuration's first phase has. All
    accuracies are on the held-out images under the configuration's views, after recalibration. An interrupted run
    continues in the same folder, from the newest checkpoint.

    Raises:
        ValueError: fewer than 3 nets, or the folder holds supernets of another configuration. BundleError: the
            bundle of `init` is not there.
    """
    if nets < 3:
        raise ValueError(f"nets is {nets}; a ranking needs at least 3")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = distributed.choose_device(config.device)
    dataset, space = load_data(config, data_root)
    score = _scorer(config, dataset)
    epochs = epochs or config.schedule.phases[0].epochs
    genomes = _sample_distinct(space, nets, seed)
    folder.mkdir(parents=True, exist_ok=True)

    inherited = {}
    for sampler in SAMPLERS:
        state = TrainingState.fresh(space, with_sampler(config.schedule, space, sampler), device)
        start_of(config, state, dataset)
        for done in train_resumably(state, dataset, folder / sampler, workers=config.dataset.workers):
            progress(f"{sampler} supernet", done.step, done.total_steps, f"loss {done.loss:.2f}")
        supernet = state.averaged()
        inherited[sampler] = np.array([score(supernet, space.decode(genome)) for genome in genomes])

    alone = np.empty((2, nets))
    common = {"schedule": config.schedule.hash, "epochs": epochs, "evaluation": evaluation_settings(config)}
    if config.init is not None:
        common["start"] = state.start
    results = _Results(folder / "nets.jsonl", common)
    for number, (net, run) in enumerate(np.ndindex(nets, 2), 1):
        arch, net_seed = space.decode(genomes[net]), config.schedule.seed + run
        checkpoints = folder / f"net-{space.id(arch)}-{net_seed}"
        key = {"genome": genomes[net].tolist(), "seed": net_seed}
        accuracy = results.get(key)
        if accuracy is None:
            state = _start_alone(config, dataset, space, arch, epochs, net_seed, device)
            for done in train_resumably(state, dataset, checkpoints, workers=config.dataset.workers):
                progress("nets alone", number - 1, 2 * nets, f"step {done.step} of {done.total_steps}")
            accuracy = results.add(key, score(state.averaged(), arch))
        shutil.rmtree(checkpoints, ignore_errors=True)  # only the accuracy is still needed
        alone[run, net] = accuracy
        progress("nets alone", number, 2 * nets, f"accuracy {accuracy:.3f}")
    rng = random_generator(seed, Stream.BOOTSTRAP)
    return {
        "epochs": epochs,
        "nets": [
            {
                "arch": space.decode(genome).to_json(),
                "alone": alone[:, net].tolist(),
                **{sampler: float(inherited[sampler][net]) for sampler in SAMPLERS},
            }
            for net, genome in enumerate(genomes)
        ],
        **rank_agreement(alone, inherited, rng),
    }


def _start_alone(
    config: TrainingConfig,
    dataset: Dataset,
    space: SearchSpace,
    arch: Architecture,
    epochs: int,
    seed: int,
    device: torch.device,
) -> TrainingState:
    """The start of training a subnet alone: from random weights, or from its slice of the weights of `init`."""
    network, start = random_network(space, arch, seed), ""
    if config.init is not None:
        source = TrainingState.fresh(space, replace(config.schedule, seed=seed))
        start_of(config, source, dataset)
        network, start = source.supernet.extract(arch), source.start
    return stand_alone(space, arch, network, config.schedule, epochs, seed, device, start=start)


def rank_agreement(alone: Floats, inherited: dict[str, Floats], rng: np.random.Generator) -> dict[str, Any]:
    """How well inherited accuracies rank subnets, as JSON.

    alone: (2, N) accuracies after training alone with two seeds; the others are compared with the first seed's.
    inherited: (N,) accuracies by sampler. ceiling: the agreement of the two seeds, which no supernet can be expected to
    exceed.
    """
    rows = {name: _agreement(alone[0], values, rng) for name, values in inherited.items()}
    intervals = [row["interval"] for row in rows.values()]
    different = all(intervals) and max(low for low, _ in intervals) > min(high for _, high in intervals)
    best = max(rows, key=lambda name: -2 if (tau := rows[name]["kendall_tau"]) is None else tau)
    return {
        "samplers": rows,
        "ceiling": _agreement(alone[0], alone[1], rng),
        "verdict": f"{best} ranks better: the intervals do not overlap" if different else "no difference shown",
    }


def _agreement(alone: Floats, other: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """gap: by how much the other accuracy is higher, on average."""
    return {
        "kendall_tau": kendall_tau(alone, other),
        "interval": tau_interval(alone, other, rng),
        "spearman": spearman_rho(alone, other),
        "gap": float(np.mean(other - alone)),
    }


def _scorer(config: TrainingConfig, dataset: Dataset) -> Callable[[Supernet, Architecture], float]:
    calibration = dataset.train[: config.evaluation.calibration_images]
    holdout = perturbed(dataset.holdout[:LARGEST_HOLDOUT], config.evaluation.views)

    def score(supernet: Supernet, arch: Architecture) -> float:
        evaluator = Evaluator(supernet, dataset.normalization, calibration, holdout)
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        return scored.accuracy

    return score


def _sample_distinct(space: SearchSpace, count: int, seed: int) -> Genomes:
    """(count, G) distinct genomes, uniform."""
    pool = space.sample(random_generator(seed, Stream.RANKED_SUBNETS), 20 * count)
    distinct = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    if len(distinct) < count:
        raise ValueError(f"nets is {count}; {space.name} gave only {len(distinct)} different subnets; use fewer")
    return distinct[:count]


class _Results:
    """The accuracies of networks trained alone. Each is appended to a file when it is known."""

    def __init__(self, path: Path, common: dict[str, Any]) -> None:
        """common: entries that every line has; lines of the file with other values are ignored."""
        self._journal, self._common = Journal(path), common

    def get(self, key: dict[str, Any]) -> float | None:
        entries = {**self._common, **key}.items()
        return next((line["accuracy"] for line in self._journal.lines if entries <= line.items()), None)

    def add(self, key: dict[str, Any], accuracy: float) -> float:
        self._journal.add({**self._common, **key, "accuracy": accuracy})
        return accuracy


def with_sampler(schedule: Schedule, space: SearchSpace, sampler: str) -> Schedule:
    """The schedule with every phase sampled uniformly, or strictly fairly, with the same number of subnets per step.

    So the two schedules cost the same and differ only in which subnets are sampled.
    """
    phases = []
    for phase in schedule.phases:
        fair = max(map(len, space.open_choices(**phase.open)[1:]))
        plain = replace(phase, sampler="uniform", flops=None, drop_rate=None, subnets_per_step=fair)
        phases.append(
            replace(plain, sampler="strict_fair", subnets_per_step=None) if sampler == "strict_fair" else plain
        )
    return replace(schedule, phases=tuple(phases))
