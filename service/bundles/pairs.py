"""Pairs of subnet and accuracy that a predictor is fitted on."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from supernet.evaluation.evaluate import Evaluation, Evaluator
from supernet.files import Journal
from supernet.space import Genomes, SearchSpace
from supernet.training.memory import keep_freed_memory

STRATA = 20  # equal ranges of FLOPs
POOL = 20_000  # genomes to choose from, half of them uniform


def stratified(space: SearchSpace, rng: np.random.Generator, count: int) -> Genomes:
    """(at most count, G) distinct genomes: the largest, the smallest, then from each range of FLOPs in turn.

    Uniform genomes crowd where FLOPs are medium. So those of half the pool lean to one side: each is drawn with one
    chance for all its genes, itself uniform, that an index is high; over the pool every index is still as frequent.
    Fewer genomes from the same generator are the first of more.
    """
    corners = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    leaning = rng.binomial(space.num_choices - 1, rng.random((POOL // 2, 1))).astype(np.int8)
    pool = np.concatenate([corners, space.sample(rng, POOL // 2), space.canonical(leaning)])
    pool = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    flops = CostTables(space).flops(pool)
    strata = np.digitize(flops, np.linspace(flops.min(), flops.max(), STRATA + 1)[1:-1])
    turns = np.empty(len(pool), np.intp)
    for stratum in range(STRATA):
        members = np.flatnonzero(strata == stratum)
        turns[members] = np.arange(len(members))
    return pool[np.argsort(turns, kind="stable")[:count]]


def measure_subnets(evaluator: Evaluator, space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
    """Extract, recalibrate and score subnets; yields each one's index. Those of one resolution share its images."""
    keep_freed_memory()
    for number in np.argsort(genomes[:, 0], kind="stable").tolist():
        arch = space.decode(genomes[number])
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        yield number, scored


class Pairs:
    """Measured subnets, kept in a file as they come, each with what it was measured on."""

    def __init__(self, path: Path, measured_on: Mapping[str, Any]) -> None:
        """measured_on: all that scores depend on, as JSON; those of other weights or images are passed over."""
        self._of = hashlib.sha256(json.dumps(measured_on, sort_keys=True).encode()).hexdigest()
        self.path = path
        self._journal = Journal(path)
        self._scores = {
            np.array(line["genome"], np.int8).tobytes(): (line["accuracy"], line["log_likelihood"])
            for line in self._journal.lines
            if line.get("of") == self._of
        }

    def measure(self, evaluator: Evaluator, space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
        """Measure those that are missing; yields how many there are so far, and the newest."""
        missing = np.array([genome for genome in genomes if genome.tobytes() not in self._scores], np.int8)
        if len(missing):
            already_done = len(genomes) - len(missing)
            for done, (number, scored) in enumerate(measure_subnets(evaluator, space, missing), already_done + 1):
                self._journal.add({"of": self._of, "genome": missing[number].tolist(), **asdict(scored)})
                self._scores[missing[number].tobytes()] = scored.accuracy, scored.log_likelihood
                yield done, scored

    def scores(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """(N,) accuracies and (N,) log-likelihoods of (N, G) genomes, all measured."""
        found = np.array([self._scores[genome.tobytes()] for genome in genomes])
        return found[:, 0], found[:, 1]
