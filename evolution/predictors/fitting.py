"""Fitting accuracy predictors to measured pairs, their errors on pairs that the fit did not see, and the choice.

`cross_validate` fits a kind of model on four fifths of the pairs at a time and predicts the others. Each fit chooses
its own hyperparameters on the pairs that it sees: ridge regression by leave-one-out error, the kernel by marginal
likelihood. The MLP has none to choose. So the errors are those of a nested cross-validation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import dominance_ranks
from evolution.predictors.features import Features, cumulative, one_hot
from evolution.predictors.kernel import fit_kernel
from evolution.predictors.layers import fit_mlp, fit_ridge
from evolution.predictors.link import Link, logit
from evolution.predictors.uncertainty import LEVEL, Uncertainty
from evolution.predictors.validation import folds, kendall_tau
from supernet.space import Genomes, SearchSpace

Kind = Literal["ridge", "kernel", "mlp"]  # the simplest first
KINDS: tuple[Kind, ...] = get_args(Kind)

MIN_PAIRS = 10
MIN_MLP_PAIRS = 200  # of fewer it learns too little to be worth its time in a comparison
FOLDS = 5


class Model(Protocol):
    """Scores architectures by their features. A higher score is a higher accuracy."""

    def score(self, features: Features) -> Floats:
        """(N,) scores of the features (N, F) of `one_hot`."""

    def score_std(self, features: Features) -> Floats:
        """(N,) how sure the model is of each score: a standard deviation, without the noise of a measurement."""

    @property
    def additive(self) -> tuple[Floats, float] | None:
        """Weights (F,) of the features and a bias whose sum is the score; None if the score is no such sum."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The model as arrays by name."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The predictions for N pairs, each by a model that did not see it.

    scores, accuracy: (N,) predicted. std: (N,) the model's own standard deviation of the predicted accuracy.
    fold: (N,) the number of the fold that the pair belongs to.
    """

    scores: Floats
    accuracy: Floats
    std: Floats
    fold: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pairs:
    """N measured pairs. genomes: (N, G). accuracy: (N,) fractions. target: (N,) what models are fitted on."""

    space: SearchSpace
    genomes: Genomes
    accuracy: Floats
    target: Floats

    @classmethod
    def checked(cls, space: SearchSpace, genomes: Genomes, accuracy: Floats, log_likelihood: Floats | None) -> Self:
        """Raises what `AccuracyPredictor.fit` does."""
        accuracy = np.asarray(accuracy, np.float64)
        if len(genomes) < MIN_PAIRS or accuracy.shape != (len(genomes),):
            raise ValueError(f"{len(genomes)} genomes, {accuracy.size} accuracies; at least {MIN_PAIRS} pairs needed")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(f"an accuracy is a fraction in [0, 1]; the largest given is {accuracy.max()}")
        target = logit(accuracy) if log_likelihood is None else np.asarray(log_likelihood, np.float64)
        if target.shape != accuracy.shape or not np.isfinite(target).all():
            raise ValueError(f"{len(genomes)} finite log-likelihoods needed, one per genome")
        return cls(space, genomes, accuracy, target)

    def __len__(self) -> int:
        return len(self.genomes)

    @cached_property
    def features(self) -> Features:
        """(N, F)."""
        return one_hot(self.space, self.genomes)

    @cached_property
    def near_front(self) -> NDArray[np.bool_]:
        """(N,) the first ranks of non-dominated sorting by FLOPs and target, at least a quarter of the pairs."""
        objectives = np.stack([CostTables(self.space).flops(self.genomes), -self.target], axis=1)
        ranks = dominance_ranks(objectives)
        near: NDArray[np.bool_] = ranks <= np.sort(ranks)[len(ranks) // 4]
        return near

    @cached_property
    def best_quarter(self) -> NDArray[np.bool_]:
        """(N,) the quarter of the pairs with the highest targets."""
        return self.target >= np.quantile(self.target, 0.75)

    def folds(self, rng: np.random.Generator) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Rows (seen, unseen) of a cross-validation. Repeated measurements of an architecture share a fold."""
        _, architecture = np.unique(self.features, axis=0, return_inverse=True)
        splits = folds(int(architecture.max()) + 1, FOLDS, rng)
        return [
            (np.flatnonzero(np.isin(architecture, seen)), np.flatnonzero(np.isin(architecture, unseen)))
            for seen, unseen in splits
        ]

    def fit(self, kind: Kind, rows: NDArray[np.intp], rng: np.random.Generator) -> tuple[Model, Link]:
        """The model and the link fitted on these rows."""
        features, target = self.features[rows], self.target[rows]
        model: Model
        match kind:
            case "ridge":
                model = fit_ridge(features, target)
            case "kernel":
                model = fit_kernel(features, target, cumulative(self.space), rng)
            case "mlp":
                model = fit_mlp(features, target, rng)
        return model, Link.fit(model.score(features), self.accuracy[rows])

    def errors(self, held_out: HeldOut) -> dict[str, Any]:
        """Errors over all pairs, over the best quarter, and near the front of FLOPs and target, where searches end."""
        scores, best, near = held_out.scores, self.best_quarter, self.near_front
        error = held_out.accuracy - self.accuracy
        return {
            "rmse": _rms(error),
            "kendall_tau": kendall_tau(scores, self.target),
            "kendall_tau_accuracy": kendall_tau(held_out.accuracy, self.accuracy),
            "best_quarter": {"pairs": int(best.sum()), "kendall_tau": kendall_tau(scores[best], self.target[best])},
            "near_front": {
                "pairs": int(near.sum()),
                "rmse": _rms(error[near]),
                "kendall_tau": kendall_tau(scores[near], self.target[near]),
            },
        }

    def coverage(self, held_out: HeldOut) -> float:
        """The share of pairs within 95 % intervals that the other folds' errors set."""
        error, covered = held_out.accuracy - self.accuracy, np.zeros(len(self), bool)
        for fold in np.unique(held_out.fold):
            here = held_out.fold == fold
            uncertainty = Uncertainty.fit(error[~here], held_out.std[~here])
            covered[here] = uncertainty.covers(error[here], held_out.std[here])
        return float(covered.mean())


def cross_validate(
    pairs: Pairs,
    kind: Kind,
    splits: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    rng: np.random.Generator,
    size: int | None = None,
) -> HeldOut:
    """Predict each fold with a model fitted on the others, or on at most `size` random pairs of the others."""
    scores, accuracy, std, folds = np.empty((4, len(pairs)))
    for number, (seen, unseen) in enumerate(splits):
        model, link = pairs.fit(kind, seen if size is None else rng.permutation(seen)[:size], rng)
        features = pairs.features[unseen]
        scores[unseen] = model.score(features)
        accuracy[unseen] = link(scores[unseen])
        std[unseen] = link.derivative(scores[unseen]) * model.score_std(features)
        folds[unseen] = number
    return HeldOut(scores, accuracy, std, folds.astype(np.intp))


def choose(errors: Mapping[Kind, Mapping[str, Any]]) -> Kind:
    """Start with the simplest kind; take the next if both its RMSE and its tau in the best quarter are better."""

    def tau(kind: Kind) -> float:
        value = errors[kind]["best_quarter"]["kendall_tau"]
        return -1.0 if value is None else value  # None: it predicts the same for all

    chosen, *others = (kind for kind in KINDS if kind in errors)
    for kind in others:
        if errors[kind]["rmse"] < errors[chosen]["rmse"] and tau(kind) > tau(chosen):
            chosen = kind
    return chosen


def fit_model(
    pairs: Pairs, rng: np.random.Generator, kind: Kind | None
) -> tuple[Model, Link, Uncertainty, dict[str, Any]]:
    """The model of this kind, or of the kind that `choose` takes, with its link, uncertainty and part of the card."""
    kinds = (kind,) if kind else tuple(k for k in KINDS if k != "mlp" or len(pairs) >= MIN_MLP_PAIRS)
    splits = pairs.folds(rng)
    held_out = {name: cross_validate(pairs, name, splits, rng) for name in kinds}
    errors = {name: pairs.errors(values) for name, values in held_out.items()}
    chosen = choose(errors)
    model, link = pairs.fit(chosen, np.arange(len(pairs)), rng)
    uncertainty = Uncertainty.fit(held_out[chosen].accuracy - pairs.accuracy, held_out[chosen].std)
    card = {
        "kind": chosen,
        "pairs": len(pairs),
        "validation": f"{FOLDS}-fold cross-validation",
        **errors[chosen],
        "interval": {"level": LEVEL, "coverage": pairs.coverage(held_out[chosen])},
        "compared": errors,
    }
    return model, link, uncertainty, card


def _rms(errors: Floats) -> float:
    return float(np.sqrt(np.mean(errors**2)))
