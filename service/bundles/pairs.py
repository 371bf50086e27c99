"""Pairs of a subnet and its accuracy, which the accuracy predictor is fitted on."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.pairs import MeasuredPairs
from service.searches.inherited import measure_subnets
from supernet.bundle import Bundle, BundleError
from supernet.evaluation.evaluate import Evaluator
from supernet.evaluation.metrics import Evaluation
from supernet.files import Journal
from supernet.space import Genomes, SearchSpace
from supernet.training.memory import keep_freed_memory

STRATA = 20  # equal ranges of FLOPs
POOL = 20_000  # genomes to choose from
SCORES = tuple(field.name for field in fields(Evaluation))


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
    return pool[spread(CostTables(space).flops(pool), count)]


def spread(flops: Floats, count: int) -> NDArray[np.intp]:
    """(at most count,) rows of (N,) FLOPs, from each of `STRATA` equal ranges in turn, a range's first row first."""
    strata = np.digitize(flops, np.linspace(flops.min(), flops.max(), STRATA + 1)[1:-1])
    turns = np.empty(len(flops), np.intp)
    for stratum in range(STRATA):
        members = np.flatnonzero(strata == stratum)
        turns[members] = np.arange(len(members))
    return np.argsort(turns, kind="stable")[:count]


class Pairs:
    """Measured subnets. Each is appended to a file when it is measured."""

    def __init__(self, path: Path, measured_on: Mapping[str, Any]) -> None:
        """measured_on: all that the scores depend on, as JSON. Lines of the file with another value are ignored."""
        self._key = hashlib.sha256(json.dumps(measured_on, sort_keys=True).encode()).hexdigest()
        self.path = path
        self._journal = Journal(path)
        self._scores = {
            np.array(line["genome"], np.int8).tobytes(): Evaluation(
                **{name: line[name] for name in SCORES if name in line}
            )
            for line in self._journal.lines
            if line.get("of") == self._key
        }

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Self:
        """The measured subnets of a bundle: those in BUNDLE.pairs.jsonl that its weights and images gave.

        Raises:
            BundleError: the bundle has no held-out images to measure subnets on.
        """
        files = bundle.manifest["files"]
        if "holdout.npz" not in files:
            raise BundleError(
                f"{bundle.path} has no held-out images to measure subnets on; run `supple fit {bundle.path} --images "
                "FOLDER`, or train from it"
            )
        hashes = {name: files.get(name) for name in ("weights.safetensors", "calibration.npz", "holdout.npz")}
        key = {**hashes, "views": bundle.manifest["views"]}
        return cls(bundle.beside(".pairs.jsonl"), key)

    @property
    def known(self) -> Mapping[bytes, Evaluation]:
        """All scores, by the bytes of a genome."""
        return self._scores

    def measure(self, evaluator: Evaluator, space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
        """Measure the genomes that are not in the file. Yields the number measured so far, and the newest scores."""
        missing = np.array([genome for genome in genomes if genome.tobytes() not in self._scores], np.int8)
        if len(missing):
            keep_freed_memory()
            already_done = len(genomes) - len(missing)
            for done, (number, scored) in enumerate(measure_subnets(evaluator, space, missing), already_done + 1):
                self.add(missing[number], scored)
                yield done, scored

    def add(self, genome: Genomes, scored: Evaluation) -> None:
        """Append the scores of a genome (G,). Raises OSError when the file cannot be written."""
        self._journal.add({"of": self._key, "genome": genome.tolist(), **asdict(scored)})
        self._scores[genome.tobytes()] = scored

    def measured(self, space: SearchSpace, genomes: Genomes) -> MeasuredPairs:
        """(N, G) genomes, all measured, with their scores."""
        return MeasuredPairs(space, genomes, *self.scores(genomes))

    def scores(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """(N,) accuracies and (N,) log-likelihoods of (N, G) genomes, all measured."""
        scores = [self._scores[genome.tobytes()] for genome in genomes]
        return np.array([scored.accuracy for scored in scores]), np.array([scored.log_likelihood for scored in scores])
