"""Scoring subnets on held-out images with the supernet's weights, in place of predicting their accuracy.

Single-Path One-Shot searches like this (arXiv:1904.00420): each proposal is extracted, its batch norm is recalibrated,
and it is scored. The scores are called inherited, as the weights are. This module loads no torch; its callers bring an
`Evaluator`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evolution.arrays import Floats
from service.errors import InputError
from supernet.evaluation.metrics import TOP, Evaluation, Metric, to_fraction
from supernet.space import Genomes, SearchSpace

if TYPE_CHECKING:
    from supernet.evaluation.evaluate import Evaluator


def check_measurable(manifest: Mapping[str, Any], metric: Metric) -> None:
    """Check that a bundle's subnets can be scored by a metric. manifest: the bundle's.

    Raises:
        InputError: the bundle has no weights, calibration images or held-out images, or too few classes for top5.
    """
    needed = {
        "weights.safetensors": "weights",
        "calibration.npz": "calibration images",
        "holdout.npz": "held-out images",
    }
    missing = [words for file, words in needed.items() if file not in manifest["files"]]
    if missing:
        raise InputError(
            f"`evaluate` is 'inherited', and the bundle {manifest['name']} has no {' and no '.join(missing)}; search "
            "it by prediction, or train a bundle of your own with `supple train`",
            "evaluate",
        )
    if metric == "top5" and len(manifest["classes"]) <= TOP:
        raise InputError(
            f"`metric` is 'top5', which is always 1 with the {len(manifest['classes'])} classes of the bundle "
            f"{manifest['name']}; more than {TOP} classes are needed",
            "metric",
        )


def measure_subnets(evaluator: "Evaluator", space: SearchSpace, genomes: Genomes) -> Iterator[tuple[int, Evaluation]]:
    """Extract, recalibrate and score subnets, sorted by resolution. Yields the index in `genomes` and the scores."""
    for number in np.argsort(genomes[:, 0], kind="stable").tolist():
        arch = space.decode(genomes[number])
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        yield number, scored


class InheritedScores:
    """Scores of subnets as fractions, as `Problem.measure` needs them. Measures each subnet once.

    known: the scores measured so far, by the bytes of a genome; those measured from now on are added.
    on_measured: called with each genome (G,) that is measured, and its scores.
    """

    def __init__(
        self,
        evaluator: "Evaluator",
        space: SearchSpace,
        metric: Metric,
        known: Mapping[bytes, Evaluation],
        on_measured: Callable[[Genomes, Evaluation], None],
    ) -> None:
        self._evaluator, self._space, self._metric = evaluator, space, metric
        self._known = {key: scored for key, scored in known.items() if scored.value(metric) is not None}
        self._on_measured = on_measured

    def __call__(self, genomes: Genomes) -> Floats:
        """(N,) scores of (N, G) genomes, fractions by `to_fraction`. Raises what `on_measured` raises."""
        missing = np.array([genome for genome in genomes if genome.tobytes() not in self._known], np.int8)
        if len(missing):
            for number, scored in measure_subnets(self._evaluator, self._space, missing):
                self._known[missing[number].tobytes()] = scored
                self._on_measured(missing[number], scored)
        return np.array([to_fraction(self._metric, self._value(genome)) for genome in genomes])

    def evaluation(self, genome: Genomes) -> Evaluation:
        """The scores of a genome (G,) that was measured."""
        return self._known[genome.tobytes()]

    def _value(self, genome: Genomes) -> float:
        value = self.evaluation(genome).value(self._metric)
        assert value is not None
        return value
