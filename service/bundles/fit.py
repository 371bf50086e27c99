"""`supple fit`: measure subnets of a bundle and fit its accuracy predictor again."""

from collections.abc import Callable

from evolution.predictors.accuracy import AccuracyPredictor, learning_curve
from evolution.predictors.fitting import Kind
from service.bundles.pairs import Pairs, stratified
from supernet.bundle import Bundle, with_predictor
from supernet.streams import Stream, random_generator


def fit_bundle(
    bundle: Bundle,
    *,
    subnets: int,
    kind: Kind | None,
    seed: int,
    progress: Callable[[str, int, int, str], None] = lambda stage, done, total, remark: None,
) -> Bundle:
    """Measure subnets, fit the predictor and put it into the bundle, with its card and learning curve in the report.

    The measurements stay in BUNDLE.pairs.jsonl. So an interrupted run continues, and a run with another kind of
    predictor or with more subnets measures only the missing subnets.

    Raises:
        ValueError: too few subnets are requested or exist, or the bundle has no weights or no held-out images.
        OSError: the disk is full; the bundle is unchanged.
    """
    space = bundle.space
    rng = random_generator(seed, Stream.PREDICTOR)
    genomes = stratified(space, rng, subnets)
    pairs = Pairs.of_bundle(bundle)
    for done, scored in pairs.measure(bundle.evaluator(), space, genomes):
        progress("measure subnets", done, len(genomes), f"accuracy {scored.accuracy:.3f}")
    accuracy, log_likelihood = pairs.scores(genomes)
    progress("fit the predictor", 0, 1, kind or "compare kinds")
    predictor = AccuracyPredictor.fit(space, genomes, accuracy, log_likelihood, rng, kind)
    chosen = predictor.card["kind"]
    curve = learning_curve(space, genomes, accuracy, log_likelihood, rng, chosen)
    report = {**bundle.report, "predictor": predictor.card, "learning_curve": curve}
    progress("fit the predictor", 1, 1, chosen)
    return with_predictor(bundle, predictor.to_bytes(), report)
