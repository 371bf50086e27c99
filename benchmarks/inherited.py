"""Search by inherited accuracy beside search by the predictor: `python -m benchmarks.inherited RUN/bundle -o FILE`.

For each seed, a predictor is fitted on measured pairs, once for all limits on FLOPs, and searched. Searches that
measure their proposals on the same held-out images (`evaluate: inherited`) begin anew at each limit. They evaluate as
many subnets at all limits together as there are pairs, as many at each limit, and more. All winners are then scored on
the test split, which neither search, nor training, nor recalibration used: as it is, and perturbed as the held-out
images are. No subnet is measured twice, but each search is charged the processor time that its subnets took.

Then some choices are excluded (`choices: {"kernel_size": [3]}`), and a ridge regression of the same pairs is searched
at the same limits, in turns with the open space: what accuracy that costs, predicted and measured, and what time.

FILE is written anew after each seed from the second on.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from evolution.arrays import Floats
from evolution.choices import Choices
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.fitting import Kind
from evolution.problem import Problem
from evolution.refusal import Refused
from evolution.search import solve
from service.bundles.config import load_data, recorded_config
from service.bundles.pairs import stratified
from service.searches.inherited import InheritedScores
from service.searches.request import INHERITED_EVALUATIONS
from supernet.bundle import Bundle
from supernet.data import Images
from supernet.evaluation.evaluate import batches, evaluate, perturbed
from supernet.evaluation.metrics import METRICS, Evaluation, Metric
from supernet.evaluation.views import Views
from supernet.files import write_atomically
from supernet.space import Genomes, Value
from supernet.streams import Stream, random_generator
from supernet.training.memory import keep_freed_memory

FIGURES = ("held out", "test, perturbed", "test", "log-likelihood")  # accuracies, and on the perturbed test split
RESTRICTIONS: tuple[dict[str, tuple[Value, ...]], ...] = (
    {"kernel_size": (3,)},
    {"kernel_size": (3, 5)},
    {"expand_ratio": (3,)},
    {"depth": (1,)},
    {"kernel_size": (3,), "expand_ratio": (2,)},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limits", type=int, default=3, help="on FLOPs, at equal distances")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--more", type=int, default=INHERITED_EVALUATIONS, help="pairs and evaluations at larger cost")
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help="that searches which measure rank by")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    bundle = Bundle.open(options.bundle)
    meter, judge = Meter(bundle), Judge(bundle, options.data_root)
    cost = meter.tables.flops_cost
    limits = np.linspace(float(cost.floors.min()), cost.ceiling, options.limits + 2)[1:-1].tolist()
    budgets = [options.pairs // len(limits), options.pairs, options.more]
    answers: dict[str, list[Answers]] = defaultdict(list)
    restricted: dict[str, list[Restricted | None]] = defaultdict(list)
    for seed in range(options.seeds):
        regression, _ = meter.fit(options.pairs, seed, "ridge")
        for pairs in (options.pairs, options.more):
            answers[f"predictor of {pairs} pairs"].append(search_predictor(meter, limits, pairs, seed))
        for budget in budgets:
            way = f"inherited, {budget} a limit"
            answers[way].append(search_inherited(meter, regression, limits, options.metric, budget, seed))
        for way, seeds in answers.items():
            print(f"seed {seed}: {way}, {seeds[-1].measured} measured, {seeds[-1].seconds:.0f} s", flush=True)
        for choices in (Choices(meter.space, restriction) for restriction in RESTRICTIONS):
            restricted[choices.describe()] += search_restricted(meter, judge, regression, limits, choices, seed)
        if seed:
            title = f"{bundle.name}, seeds 0 to {seed}, searches that measure rank by {options.metric}"
            lines = [title, *compare(judge, answers, limits), *describe_restrictions(restricted)]
            write_atomically(options.output, "".join(f"{line}\n" for line in lines).encode())


# Measuring.


class Meter:
    """Measures a bundle's subnets on its held-out images, each once, and what processor time that takes."""

    def __init__(self, bundle: Bundle) -> None:
        self.space, self.tables = bundle.space, CostTables(bundle.space)
        self._evaluator = bundle.evaluator()
        self._evaluations: dict[bytes, Evaluation] = {}
        self._seconds: dict[bytes, float] = {}

    def scores(self, metric: Metric = "accuracy") -> InheritedScores:
        """Scores for one search, which begins now: what passes between two measurements is charged to the later."""
        began = time.process_time()

        def on_measured(genome: Genomes, scored: Evaluation) -> None:
            nonlocal began
            now = time.process_time()
            self._evaluations[genome.tobytes()], self._seconds[genome.tobytes()] = scored, now - began
            began = now

        return InheritedScores(self._evaluator, self.space, metric, self._evaluations, on_measured)

    def seconds(self, genomes: Genomes) -> float:
        """The processor seconds that measuring (N, G) genomes took."""
        return sum(self._seconds[genome.tobytes()] for genome in genomes)

    def fit(self, pairs: int, seed: int, kind: Kind | None = None) -> tuple[AccuracyPredictor, float]:
        """The predictor of so many pairs, as `supple train` fits it, and the seconds of measuring and fitting."""
        genomes = stratified(self.space, random_generator(seed, Stream.PREDICTOR), pairs)
        scores = self.scores()
        accuracy = scores(genomes)
        log_likelihood = np.array([scores.evaluation(genome).log_likelihood for genome in genomes])
        started = time.process_time()
        rng = np.random.default_rng(seed)
        predictor = AccuracyPredictor.fit(self.space, genomes, accuracy, log_likelihood, rng, kind)
        return predictor, self.seconds(genomes) + time.process_time() - started

    def problem(self, predictor: AccuracyPredictor, limit: float, choices: Choices | None = None) -> Problem:
        """The most accurate subnet within a limit on FLOPs."""
        return Problem(self.tables, predictor, constrain([Limit("flops", limit)], self.tables, {}), choices=choices)


class Judge:
    """Scores subnets on the held-out images and on the test split of the dataset that a bundle was trained on."""

    def __init__(self, bundle: Bundle, data_root: Path) -> None:
        images = load_data(recorded_config(bundle), data_root)[0].test
        assert isinstance(images, Images)
        self._bundle, self._evaluator = bundle, bundle.evaluator()
        self._tests = perturbed(images, Views(**bundle.manifest["views"])), images
        self._known: dict[bytes, Floats] = {}

    def figures(self, genomes: Genomes) -> Floats:
        """(N, 4) the `FIGURES` of (N, G) genomes."""
        for genome in genomes:
            if genome.tobytes() not in self._known:
                self._known[genome.tobytes()] = self._score(genome)
        return np.stack([self._known[genome.tobytes()] for genome in genomes])

    def _score(self, genome: Genomes) -> Floats:
        arch = self._bundle.space.decode(genome)
        network = self._evaluator.subnet(arch)
        held_out = self._evaluator.evaluate(network, arch.resolution)
        assert held_out is not None
        shaken, test = (
            evaluate(network, batches(images, arch.resolution, self._bundle.normalization)) for images in self._tests
        )
        return np.array([held_out.accuracy, shaken.accuracy, test.accuracy, shaken.log_likelihood])


# Two ways to search.


@dataclass(frozen=True)
class Answers:
    """For one seed, the winners (L, G) at all limits, how many subnets were measured, and processor seconds."""

    winners: Genomes
    measured: int
    seconds: float


def search_predictor(meter: Meter, limits: Sequence[float], pairs: int, seed: int) -> Answers:
    predictor, seconds = meter.fit(pairs, seed)
    started = time.process_time()
    winners = [solve(meter.problem(predictor, limit), seed=seed).best for limit in limits]
    return Answers(np.stack(winners), pairs, seconds + time.process_time() - started)


def search_inherited(
    meter: Meter, predictor: AccuracyPredictor, limits: Sequence[float], metric: Metric, evaluations: int, seed: int
) -> Answers:
    """The answers of searches that measure. predictor: any; the default strategy does not look at it then."""
    results = []
    for limit in limits:
        problem = replace(meter.problem(predictor, limit), measure=meter.scores(metric))
        results.append(solve(problem, evaluations=evaluations, seed=seed))
    genomes = np.concatenate([result.evaluated.genomes for result in results])
    return Answers(np.stack([result.best for result in results]), len(genomes), meter.seconds(genomes))


def compare(judge: Judge, answers: Mapping[str, Sequence[Answers]], limits: Sequence[float]) -> Iterator[str]:
    """Lines: what each way costs, what its winners score, and how that differs from the first way's."""
    scores = {way: np.stack([judge.figures(answer.winners) for answer in seeds]) for way, seeds in answers.items()}
    yield ""
    yield f"{'means over limits and seeds':27} measured  seconds  {'  '.join(f'{name:>8}' for name in FIGURES)}"
    for way, seeds in answers.items():
        measured, seconds = mean(answer.measured for answer in seeds), mean(answer.seconds for answer in seeds)
        held_out, shaken, test, likelihood = scores[way].mean((0, 1))
        yield (
            f"{way:27} {measured:8.0f} {seconds:8.1f}  {held_out:8.2%}  {shaken:15.2%}  {test:8.2%}  {likelihood:14.4f}"
        )
    first, *others = scores
    yield ""
    yield f"minus {first}, in points and nats: mean, standard error over seeds, and in how many seeds it is above"
    for way in others:
        differences = (scores[way] - scores[first]).mean(1) * (100, 100, 100, 1)  # (S, 4)
        means, above = differences.mean(0), (differences > 0).sum(0)
        errors = differences.std(0, ddof=1) / len(differences) ** 0.5
        yield f"{way}: " + "; ".join(
            f"{name} {means[i]:+.{digits}f} ({errors[i]:.{digits}f}, {above[i]} of {len(differences)})"
            for i, (name, digits) in enumerate(zip(FIGURES, (2, 2, 2, 4), strict=True))
        )
    yield ""
    yield f"{'accuracy by limit, FLOPs':27} " + "  ".join(f"{limit:>17,.0f}" for limit in limits)
    yield f"{'':27} " + "  ".join(["  test, perturbed"] * len(limits))
    for way, values in scores.items():
        yield f"{way:27} " + "  ".join(f"{value:17.2%}" for value in values[:, :, 1].mean(0))


# Restricted choices.


@dataclass(frozen=True)
class Restricted:
    """What a restriction does at one limit, for one seed.

    lost: (4,) points that its best has less than the open space's: predicted, held out, on the perturbed test split, on
    the test split as it is. seconds: (2, 3) of the open and of the restricted search, as from `_timed`.
    """

    lost: Floats
    seconds: Floats


def search_restricted(
    meter: Meter, judge: Judge, predictor: AccuracyPredictor, limits: Sequence[float], choices: Choices, seed: int
) -> Iterator[Restricted | None]:
    """For each limit, what a restriction does; None where it is refused. predictor: a sum over genes."""
    for limit in limits:
        best, open_seconds = _timed(meter.problem(predictor, limit), seed)
        try:
            found, seconds = _timed(meter.problem(predictor, limit, choices), seed)
        except Refused:
            yield None
            continue
        genomes = np.stack([best, found])
        values = np.column_stack([predictor.predict(genomes), judge.figures(genomes)[:, :3]])
        yield Restricted(100 * (values[0] - values[1]), np.array([open_seconds, seconds]))


def _timed(problem: Problem, seed: int) -> tuple[Genomes, Floats]:
    """The proven best (G,), and the processor seconds (3,) of finding the region, of `exact`, and of `evolution`."""
    started = [time.process_time()]
    problem.require_feasible()
    started.append(time.process_time())
    result = solve(problem, strategy="exact")
    started.append(time.process_time())
    solve(problem, strategy="evolution", seed=seed)
    started.append(time.process_time())
    assert result.optimality is not None
    assert result.optimality.proven
    return result.best, np.diff(started)


def describe_restrictions(restricted: Mapping[str, Sequence[Restricted | None]]) -> Iterator[str]:
    """Lines: what restrictions cost in accuracy, and the times of both searches."""
    yield ""
    yield "ridge regression, restricted choices: points lost, in the mean; and milliseconds, open → restricted, medians"
    yield f"{'':30} refused  predicted  held out  test, perturbed   test        region          proof       evolution"
    for name, results in restricted.items():
        met = [result for result in results if result is not None]
        row = f"{name:30} {len(results) - len(met):2} of {len(results)}"
        if met:
            predicted, held_out, shaken, test = np.mean([result.lost for result in met], axis=0)
            row += f"  {predicted:9.2f}  {held_out:8.2f}  {shaken:15.2f}  {test:5.2f}"
            before, after = 1e3 * np.median([result.seconds for result in met], axis=0)
            row += "".join(f"  {old:5.1f} → {new:5.1f}" for old, new in zip(before, after, strict=True))
        yield row


if __name__ == "__main__":
    main()
