"""`supple fit`: measure subnets of a bundle and fit its accuracy predictor again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from evolution.predictors.accuracy import AccuracyPredictor, learning_curve
from evolution.predictors.fitting import MIN_PAIRS, Kind
from evolution.predictors.pairs import MeasuredPairs
from evolution.predictors.refit import Refit, refit
from service.bundles.pairs import Pairs, stratified
from service.bundles.rounds import choose_round
from service.errors import InputError
from service.predictors.pairs import NO_PAIRS, check_comparable, measured_pairs
from supernet.bundle import Bundle
from supernet.bundle_writing import with_predictor
from supernet.evaluation.evaluate import Evaluator
from supernet.space import Genomes, SearchSpace
from supernet.streams import Stream, random_generator


def fit_bundle(
    bundle: Bundle,
    *,
    subnets: int,
    rounds: int = 0,
    kind: Kind | None,
    seed: int,
    progress: Callable[[str, int, int, str], None] = lambda stage, done, total, remark: None,
) -> Bundle:
    """Measure subnets, fit the predictor and put it into the bundle, with its card and learning curve in the report.

    The measurements stay in BUNDLE.pairs.jsonl. So an interrupted run continues, and a run with another kind of
    predictor or with more subnets measures only the missing subnets.

    subnets: how many in all. rounds: after a first set that is spread over FLOPs, this many rounds of equal size
    measure what `choose_round` chooses.

    Raises:
        ValueError: too few subnets are requested, in all or for a round, or exist; or the bundle has no weights or no
            held-out images.
        OSError: the disk is full; the bundle is unchanged.
    """
    if rounds and subnets // (rounds + 1) < MIN_PAIRS:
        raise InputError(
            f"`subnets` is {subnets} and `rounds` is {rounds}, so a round measures {subnets // (rounds + 1)} subnets; "
            f"at least {MIN_PAIRS} are needed, which makes {MIN_PAIRS * (rounds + 1)} in all",
            "subnets",
            "rounds",
        )
    space, pairs, rng = bundle.space, Pairs.of_bundle(bundle), random_generator(seed, Stream.PREDICTOR)
    genomes = measure_pairs(
        space,
        pairs,
        bundle.evaluator(),
        rng,
        subnets=subnets,
        rounds=rounds,
        progress=partial(progress, "measure subnets"),
    )
    accuracy, log_likelihood = pairs.scores(genomes)
    progress("fit the predictor", 0, 1, kind or "compare kinds")
    predictor = AccuracyPredictor.fit(space, genomes, accuracy, log_likelihood, rng, kind)
    predictor = replace(predictor, card={**predictor.card, "rounds": rounds, "seed": seed})
    chosen_kind = predictor.card["kind"]
    curve = learning_curve(space, genomes, accuracy, log_likelihood, rng, chosen_kind)
    report = {**bundle.report, "predictor": predictor.card, "learning_curve": curve}
    progress("fit the predictor", 1, 1, chosen_kind)
    return with_predictor(bundle, predictor.to_bytes(), pairs.measured(space, genomes).to_bytes(), report)


def refit_bundle(bundle: Bundle, *, seed: int) -> tuple[Bundle, Refit]:
    """Fit the predictor again, on the bundle's pairs and every other subnet that was measured since.

    Those are the subnets in BUNDLE.pairs.jsonl, which searches by inherited accuracy and `fit_bundle` wrote. The bundle
    changes only if the new predictor is kept.

    Raises:
        InputError: the bundle has no pairs or no predictor, its pairs were measured on other images, or nothing was
            measured since. OSError: the disk is full; the bundle is unchanged.
    """
    if bundle.pairs_path is None or bundle.predictor_path is None:
        raise InputError(f"{bundle.path} {NO_PAIRS}; `supple fit` without `--refit` measures pairs")
    old = MeasuredPairs.load(bundle.pairs_path, bundle.space)
    new = measured_pairs(bundle.space, Pairs.of_bundle(bundle).known).without(old)
    if not len(new):
        raise InputError(
            f"nothing was measured since the predictor of {bundle.path} was fitted; search with `--evaluate inherited` "
            "first, or fit on more subnets without `--refit`"
        )
    check_comparable(bundle.evaluator(), old)
    card = AccuracyPredictor.load(bundle.predictor_path, bundle.space).card
    result = refit(old, new, card, seed)
    if result.is_kept:
        report = {**bundle.report, "predictor": result.predictor.card}
        bundle = with_predictor(bundle, result.predictor.to_bytes(), (old + new).to_bytes(), report)
    return bundle, result


def measure_pairs(
    space: SearchSpace,
    pairs: Pairs,
    evaluator: Evaluator,
    rng: np.random.Generator,
    *,
    subnets: int,
    rounds: int,
    progress: Callable[[int, int, str], None] = lambda done, total, remark: None,
) -> Genomes:
    """(N, G) the subnets that `fit_bundle` fits on, measured unless `pairs` has them. N is `subnets`, or what exists.

    With the same generator, subnets and rounds, these are the same subnets.
    """

    def measure(genomes: Genomes, done: int, remark: str) -> None:
        for number, scored in pairs.measure(evaluator, space, genomes):
            progress(done + number, subnets, f"{remark}accuracy {scored.accuracy:.3f}")

    each = subnets // (rounds + 1)
    genomes = stratified(space, rng, subnets - rounds * each)
    measure(genomes, 0, "")
    for number in range(1, rounds + 1):
        chosen = choose_round(space, genomes, *pairs.scores(genomes), each, rng)
        measure(chosen, len(genomes), f"round {number} of {rounds}, ")
        genomes = np.concatenate([genomes, chosen])
    return genomes
