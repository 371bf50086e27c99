"""The accuracy predictor: from genomes to predicted accuracy. Only fitting an MLP loads torch.

1. Genes become one-hot features; genes of dropped blocks become zeros (arXiv:1908.09791, section 3.4).
2. A model gives each architecture a score: ridge regression, a Gaussian process, or Once-for-All's MLP.
3. A logistic link turns the score into an accuracy. It strictly increases, so ranking by score is ranking by predicted
   accuracy. Once-for-All's own predictor has no link: its score is the accuracy.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.features import one_hot
from evolution.predictors.fitting import FOLDS, MIN_PAIRS, Kind, Model, Pairs, cross_validate, fit_model
from evolution.predictors.kernel import Kernel
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from evolution.predictors.uncertainty import Uncertainty
from supernet.space import Genomes, SearchSpace

MIN_TAU, MIN_TAU_NEAR_FRONT = 0.6, 0.3  # below these Kendall taus the user is warned
CHUNK = 8192  # genomes predicted at once, so that memory does not grow with their number


@dataclass(frozen=True, eq=False)
class AccuracyPredictor:
    """Predicted accuracy of every architecture of a space.

    link: None if the score is the accuracy. card: the predictor's errors and origin, for its users.
    uncertainty: None if the errors are not known.
    """

    space: SearchSpace
    model: Model
    link: Link | None
    card: Mapping[str, Any]
    uncertainty: Uncertainty | None = None

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        genomes: Genomes,
        accuracy: Floats,
        log_likelihood: Floats | None,
        rng: np.random.Generator,
        kind: Kind | None = None,
    ) -> Self:
        """Fit on N pairs of genomes (N, G) and measured accuracies (N,), fractions; cross-validation gives the errors.

        log_likelihood: (N,) mean log-likelihood of the same measurements. If given, the model is fitted on it and only
        the link on accuracy, since it still distinguishes architectures where accuracy is saturated.
        kind: None compares the kinds and takes the one that `fitting.choose` does.

        Raises:
            ValueError: fewer than 10 pairs, lengths that differ, an accuracy outside [0, 1], or a number that is not
                finite.
        """
        pairs = Pairs.checked(space, genomes, accuracy, log_likelihood)
        model, link, uncertainty, card = fit_model(pairs, rng, kind)
        card["target"] = "accuracy" if log_likelihood is None else "log_likelihood"
        return cls(space, model, link, card, uncertainty)

    def score(self, genomes: Genomes) -> Floats:
        """(N,) the model's scores, higher is better: a log-likelihood, the logit of an accuracy, or an accuracy."""
        rows = [slice(start, start + CHUNK) for start in range(0, len(genomes), CHUNK)]
        return np.concatenate([np.zeros(0), *(self.model.score(one_hot(self.space, genomes[r])) for r in rows)])

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) predicted accuracy of (N, G) genomes, a fraction in [0, 1]."""
        return self.accuracy_of(self.score(genomes))

    def accuracy_of(self, scores: Floats) -> Floats:
        """(N,) the predicted accuracy of scores (N,). It never falls where the score rises."""
        return self.link(scores) if self.link else np.clip(scores, 0, 1)

    def least_score(self, accuracy: float) -> float:
        """The score at which the predicted accuracy, in (0, 1), is reached; lower by 1e-12 of its size for rounding."""
        score = self.link.score_of(accuracy) if self.link else accuracy
        return score - 1e-12 * max(1.0, abs(score))

    def predict_std(self, genomes: Genomes) -> Floats | None:
        """(N,) the standard deviation of the measured accuracy around the predicted one; None if it is not known.

        95 % of architectures drawn like the fitted pairs are measured within 1.96 standard deviations. Architectures
        that a search prefers are not drawn like that: their predicted accuracies are more often too high.
        """
        if self.uncertainty is None or self.link is None:
            return None
        features = one_hot(self.space, genomes)
        slope = self.link.derivative(self.model.score(features))
        return self.uncertainty.std(slope * self.model.score_std(features))

    @property
    def additive(self) -> tuple[Floats, float] | None:
        """Weights (F,) of the features of `one_hot` and a bias whose sum is the score; None if it is no such sum."""
        return self.model.additive

    def to_bytes(self) -> bytes:
        """The predictor as an npz file without pickles: model, link, uncertainty, card and the space's hash."""
        meta = {
            "space": self.space.hash,
            "link": astuple(self.link) if self.link else None,
            "uncertainty": astuple(self.uncertainty) if self.uncertainty else None,
            "card": dict(self.card),
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, meta=np.array(json.dumps(meta)), **self.model.to_arrays())
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path | str, space: SearchSpace) -> Self:
        """Read a file of `to_bytes`.

        Raises:
            ValueError: not such a file, or the predictor of another space.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files if name != "meta"}
            model = Kernel.from_arrays(arrays) if "support" in arrays else Layers.from_arrays(arrays)
            link = Link(*map(float, meta["link"])) if meta["link"] else None
            known = meta.get("uncertainty")  # files of earlier versions have none
            uncertainty = Uncertainty(*map(float, known)) if known else None
            card, owner = meta["card"], str(meta["space"])
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not an accuracy predictor: {error}") from error
        if owner != space.hash:
            raise ValueError(
                f"{path} is the predictor of space {owner[:16]}, not {space.hash[:16]}; fit one for this space"
            )
        return cls(space, model, link, card, uncertainty)


def learning_curve(
    space: SearchSpace,
    genomes: Genomes,
    accuracy: Floats,
    log_likelihood: Floats | None,
    rng: np.random.Generator,
    kind: Kind,
) -> list[dict[str, Any]]:
    """Errors on held-out pairs by the number of pairs fitted on: `fitted_on`, then the errors as in a card.

    Each point is a cross-validation that fits on an eighth, a quarter, half or all of the pairs of a training fold.
    Takes and raises what `AccuracyPredictor.fit` does.
    """
    pairs = Pairs.checked(space, genomes, accuracy, log_likelihood)
    seen = len(genomes) * (FOLDS - 1) // FOLDS
    sizes = sorted({max(MIN_PAIRS // 2, seen // part) for part in (8, 4, 2, 1)})
    return [
        {"fitted_on": size, **pairs.errors(cross_validate(pairs, kind, pairs.folds(rng), rng, size))} for size in sizes
    ]


def ranking_warning(card: Mapping[str, Any]) -> str | None:
    """A warning for users of a predictor that ranks held-out pairs poorly; None otherwise.

    There is no warning for a card without a known error, such as a published predictor's; the card itself says so.
    """
    near = card.get("near_front") or {}
    taus = (
        ("over all", card.get("kendall_tau"), MIN_TAU),
        ("near the front", near.get("kendall_tau"), MIN_TAU_NEAR_FRONT),
    )
    poor = [f"{tau:.2f} {where}, below {minimum}" for where, tau, minimum in taus if tau is not None and tau < minimum]
    if card.get("rmse") is not None and card.get("kendall_tau") is None:
        poor = ["none, as it predicts the same for all"]
    if not poor:
        return None
    return (
        f"the accuracy predictor ranks architectures poorly: Kendall tau on held-out pairs is {'; '.join(poor)}. "
        "Ask for verification, or fit it on more pairs with `supple fit`"
    )
