"""Pairs of a subnet and its accuracy, which the accuracy predictor is fitted on."""

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
POOL = 20_000  # genomes to choose from


def stratified(space: SearchSpace, rng: np.random.Generator, count: int) -> Genomes:
    """(at most count, G) distinct genomes: the largest, the smallest, then from each range of FLOPs in turn.

    Most uniform genomes have medium FLOPs. So only half the pool is uniform. In the other half, each genome draws one
    probability p uniformly, and each of its indices from a binomial distribution with p: some genomes are large in most
    genes, others small, and over the pool every index of a gene is equally frequent. With the same generator, a smaller
    `count` gives the first genomes of a larger one.
    """
    corners = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    correlated = rng.binomial(space.num_choices - 1, rng.random((POOL // 2, 1))).astype(np.int8)
    pool = np.concatenate([corners, space.sample(rng, POOL // 2), space.canonical(correlated)])
    pool = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    flops = CostTables(space).flops(pool)
    strata = np.digitize(flops, np.linspace(flops.min(), flops.max(), STRATA + 1)[1:-1])
    turns = np.empty(len(pool), np.intp)
    for stratum in range(STRATA):
        members = np.flatnonzero(strata == stratum)
        turns[members] = np.arange(len(members))
    return pool[np.argsort(turns, kind="stable")[:count]]


def measure_subnets(evaluator: Evaluator, space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
    """Extract, recalibrate and score subnets, sorted by resolution. Yields the index in `genomes` and the scores."""
    keep_freed_memory()
    for number in np.argsort(genomes[:, 0], kind="stable").tolist():
        arch = space.decode(genomes[number])
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        yield number, scored


class Pairs:
    """Measured subnets. Each is appended to a file when it is measured."""

    def __init__(self, path: Path, measured_on: Mapping[str, Any]) -> None:
        """measured_on: all that the scores depend on, as JSON. Lines of the file with another value are ignored."""
        self._key = hashlib.sha256(json.dumps(measured_on, sort_keys=True).encode()).hexdigest()
        self.path = path
        self._journal = Journal(path)
        self._scores = {
            np.array(line["genome"], np.int8).tobytes(): (line["accuracy"], line["log_likelihood"])
            for line in self._journal.lines
            if line.get("of") == self._key
        }

    def measure(self, evaluator: Evaluator, space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
        """Measure the genomes that are not in the file. Yields the number measured so far, and the newest scores."""
        missing = np.array([genome for genome in genomes if genome.tobytes() not in self._scores], np.int8)
        if len(missing):
            already_done = len(genomes) - len(missing)
            for done, (number, scored) in enumerate(measure_subnets(evaluator, space, missing), already_done + 1):
                self._journal.add({"of": self._key, "genome": missing[number].tolist(), **asdict(scored)})
                self._scores[missing[number].tobytes()] = scored.accuracy, scored.log_likelihood
                yield done, scored

    def scores(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """(N,) accuracies and (N,) log-likelihoods of (N, G) genomes, all measured."""
        scores = np.array([self._scores[genome.tobytes()] for genome in genomes])
        return scores[:, 0], scores[:, 1]
