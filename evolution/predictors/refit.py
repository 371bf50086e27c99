"""Fitting an accuracy predictor again with more pairs, and whether it became better where searches end.

Verified winners are pairs near the front, where a predictor that was fitted on evenly spread pairs is least sure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.fitting import Kind, Pairs, cross_validate
from evolution.predictors.pairs import MeasuredPairs
from supernet.streams import Stream, random_generator


@dataclass(frozen=True)
class Refit:
    """A predictor that was fitted again, beside the old one.

    predictor: the new one. old_errors, new_errors: `pairs`, `rmse` and `kendall_tau` on the pairs near the front of
    FLOPs and accuracy, the same ones for both. Each pair was predicted by a fit that did not see it: the old one on the
    old pairs alone, the new one on all.
    """

    predictor: AccuracyPredictor
    old_errors: Mapping[str, Any]
    new_errors: Mapping[str, Any]

    @property
    def is_kept(self) -> bool:
        """Whether the new predictor's RMSE near the front is no worse than the old one's."""
        return bool(self.new_errors["rmse"] <= self.old_errors["rmse"])

    def to_json(self) -> dict[str, Any]:
        """Whether it is kept, and both errors."""
        return {"kept": self.is_kept, **self.predictor.card["refit"]}


def refit(old: MeasuredPairs, new: MeasuredPairs, card: Mapping[str, Any], seed: int) -> Refit:
    """Fit on old and new pairs, and cross-validate on all of them. The errors compared are of those near the front.

    card: of the old predictor. If its kind was chosen among several, it is chosen again; else it stays.

    Raises:
        ValueError: too few pairs, or scores that no predictor can be fitted on.
    """
    space, both, rng = old.space, old + new, random_generator(seed, Stream.PREDICTOR)
    compared = tuple(card.get("compared", ()))
    kind: Kind | None = card["kind"] if len(compared) == 1 else None
    predictor = AccuracyPredictor.fit(space, both.genomes, both.accuracy, both.log_likelihood, rng, kind)
    pairs = Pairs.checked(space, both.genomes, both.accuracy, both.log_likelihood)
    folds = pairs.folds(rng)
    of_old = [(seen[seen < len(old)], unseen) for seen, unseen in folds]
    old_errors = pairs.errors(cross_validate(pairs, card["kind"], of_old, rng))["near_front"]
    new_errors = pairs.errors(cross_validate(pairs, predictor.card["kind"], folds, rng))["near_front"]
    comparison = {"old": old_errors, "new": new_errors, "old_pairs": len(old), "new_pairs": len(new)}
    predictor = replace(predictor, card={**predictor.card, "seed": seed, "refit": comparison})
    return Refit(predictor, old_errors, new_errors)
