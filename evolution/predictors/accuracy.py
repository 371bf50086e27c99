"""The accuracy predictor: from genomes to predicted accuracy. Only fitting an MLP loads torch.

1. Genes become one-hot features; genes of dropped blocks become zeros (arXiv:1908.09791, section 3.4).
2. Layers with ReLU between them give a score: one layer for ridge regression, four for Once-for-All's MLP.
3. A logistic link turns the score into an accuracy. It strictly increases, so ranking by score is ranking by predicted
   accuracy. Once-for-All's own predictor has no link: its score is the accuracy.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import dominance_ranks
from evolution.predictors.validation import folds, kendall_tau
from supernet.space import Genomes, SearchSpace

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]  # weight (inputs, outputs), bias (outputs,)
Kind = Literal["ridge", "mlp"]

MIN_PAIRS = 10
FOLDS = 5
MIN_TAU, MIN_TAU_NEAR_FRONT = 0.6, 0.3  # below these Kendall taus the user is warned
PENALTIES = np.logspace(-3, 5, 33)  # of ridge, on one-hot features
MARGIN = 1e-4  # accuracies are kept this far from 0 and 1, where the link has no finite score
CHUNK = 8192  # genomes predicted at once, so that memory does not grow with their number
HIDDEN = (400, 400, 400)  # Once-for-All's; the settings below suit hundreds of pairs instead of its 16,000
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
MLP_STEPS, MLP_BATCH = 800, 128
ONCE_FOR_ALL_FEATURES, ONCE_FOR_ALL_GENES = 128, ["kernel_size", "expand_ratio"]


def one_hot(space: SearchSpace, genomes: Genomes) -> NDArray[np.float32]:
    """(N, F) features: one column per choice of each gene; zeros for the genes of dropped blocks."""
    ends = np.cumsum(space.num_choices)
    features = np.zeros((len(genomes), int(ends[-1])), np.float32)
    rows = features.size // max(1, len(genomes)) * np.arange(len(genomes))[:, None]
    features.ravel()[rows + (ends - space.num_choices) + genomes] = space.alive(genomes)
    return features


@dataclass(frozen=True, slots=True)
class Link:
    """accuracy = 1 / (1 + exp(-(slope * score + intercept))), slope > 0."""

    slope: float
    intercept: float

    def __call__(self, scores: Floats) -> Floats:
        """(N,) accuracies in [0, 1]."""
        exponent = np.clip(self.slope * scores + self.intercept, -700, 700)
        accuracy: Floats = 1 / (1 + np.exp(-exponent))
        return accuracy

    @classmethod
    def fit(cls, scores: Floats, accuracy: Floats) -> Self:
        """Logistic regression of accuracies, as fractions, on scores; increasing even if the data are not."""
        from scipy.optimize import minimize

        centre, spread = float(scores.mean()), float(scores.std()) or 1.0
        x, y = (scores - centre) / spread, np.clip(accuracy, MARGIN, 1 - MARGIN)

        def loss(parameters: Floats) -> tuple[float, Floats]:
            exponent = math.exp(parameters[0]) * x + parameters[1]
            error = 1 / (1 + np.exp(-exponent)) - y
            gradient = np.array([(error * x).mean() * math.exp(parameters[0]), error.mean()])
            return float((np.logaddexp(0, exponent) - y * exponent).mean()), gradient

        start = np.array([-2.0, math.log(y.mean() / (1 - y.mean()))])
        log_slope, intercept = minimize(loss, start, jac=True, bounds=[(-10, 5), (-50, 50)]).x.tolist()
        slope = math.exp(log_slope) / spread
        return cls(slope, intercept - slope * centre)


@dataclass(frozen=True, eq=False)
class AccuracyPredictor:
    """Predicted accuracy of every architecture of a space.

    link: None if the score is the accuracy. card: the predictor's errors and origin, for its users.
    """

    space: SearchSpace
    layers: tuple[Layer, ...]
    link: Link | None
    card: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        genomes: Genomes,
        accuracy: Floats,
        log_likelihood: Floats | None,
        rng: np.random.Generator,
        kind: Kind = "ridge",
    ) -> Self:
        """Fit on N pairs of genomes (N, G) and measured accuracies (N,), fractions; cross-validation gives the error.

        log_likelihood: (N,) mean log-likelihood of the same measurements. If given, the layers are fitted on it and
        only the link on accuracy, since it still distinguishes architectures where accuracy is saturated.

        Raises:
            ValueError: fewer than 10 pairs, lengths that differ, an accuracy outside [0, 1], or a number that is not
                finite.
        """
        pairs = _Pairs.checked(space, genomes, accuracy, log_likelihood, kind)
        scores, predicted = pairs.held_out(rng)
        card = {
            "kind": kind,
            "pairs": len(genomes),
            "target": "accuracy" if log_likelihood is None else "log_likelihood",
            "validation": f"{FOLDS}-fold cross-validation",
            **pairs.errors(scores, predicted),
        }
        return cls(space, *pairs.fit(np.arange(len(genomes)), rng), card)

    @classmethod
    def from_once_for_all(cls, space: SearchSpace, layers: Sequence[Layer], card: Mapping[str, Any]) -> Self:
        """Once-for-All's predictor for its MobileNetV3 space, with its features rearranged as those of `one_hot`.

        layers: as trained. The rows of the first weight are 3 kernel sizes for each of 20 blocks, then 3 expansion
        ratios for each block, then 8 resolutions, each group ascending. Depths have no features.

        Raises:
            ValueError: layers of other shapes, or a space with other genes.
        """
        blocks = [(s, b) for s, depths in enumerate(space.depths) for b in range(depths[-1])]
        groups = [len(space.resolutions), *(len(gene.choices) for gene in space.block_genes)]
        shapes = [(weight.shape, bias.shape) for weight, bias in layers]
        sizes = pairwise((ONCE_FOR_ALL_FEATURES, *HIDDEN, 1))
        if shapes != [((inputs, outputs), (outputs,)) for inputs, outputs in sizes]:
            raise ValueError(f"Once-for-All's predictor has layers 128-400-400-400-1; these are {shapes}")
        if (len(blocks), groups) != (20, [8, 3, 3]) or [g.name for g in space.block_genes] != ONCE_FOR_ALL_GENES:
            raise ValueError(f"Once-for-All's predictor is of its MobileNetV3 space, which {space.name} is not")
        weight, bias = layers[0]
        starts = np.cumsum(space.num_choices) - space.num_choices
        columns = np.zeros((int(space.num_choices.sum()), weight.shape[1]), np.float32)
        columns[:8] = weight[120:]
        for number, (s, b) in enumerate(blocks):
            for kind in range(2):
                start = starts[space.gene_of_block(s, b) + kind]
                columns[start : start + 3] = weight[60 * kind + 3 * number :][:3]
        return cls(space, ((columns, bias), *layers[1:]), None, card)

    def score(self, genomes: Genomes) -> Floats:
        """(N,) outputs of the layers, higher is better: a log-likelihood, the logit of an accuracy, or an accuracy."""
        rows = [slice(start, start + CHUNK) for start in range(0, len(genomes), CHUNK)]
        return np.concatenate([np.zeros(0), *(_forward(self.layers, one_hot(self.space, genomes[r])) for r in rows)])

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) predicted accuracy of (N, G) genomes, a fraction in [0, 1]."""
        score = self.score(genomes)
        return self.link(score) if self.link else np.clip(score, 0, 1)

    @property
    def additive(self) -> tuple[Floats, float] | None:
        """Weights (F,) of the features of `one_hot` and a bias whose sum is the score; None if it is no such sum."""
        if len(self.layers) > 1:
            return None
        weight, bias = self.layers[0]
        return weight[:, 0].astype(np.float64), float(bias[0])

    def to_bytes(self) -> bytes:
        """The predictor as an npz file without pickles: layers, link, card and the space's hash."""
        arrays: dict[str, NDArray[Any]] = {
            f"{name}{i}": value for i, layer in enumerate(self.layers) for name, value in zip("wb", layer, strict=True)
        }
        link = [self.link.slope, self.link.intercept] if self.link else None
        meta = {"space": self.space.hash, "link": link, "card": dict(self.card)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)
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
                depth = sum(name.startswith("w") for name in file.files)
                layers = tuple((file[f"w{i}"], file[f"b{i}"]) for i in range(depth))
            link = Link(*map(float, meta["link"])) if meta["link"] else None
            card, owner = meta["card"], str(meta["space"])
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not an accuracy predictor: {error}") from error
        if owner != space.hash:
            raise ValueError(
                f"{path} is the predictor of space {owner[:16]}, not {space.hash[:16]}; fit one for this space"
            )
        return cls(space, layers, link, card)


def learning_curve(
    space: SearchSpace,
    genomes: Genomes,
    accuracy: Floats,
    log_likelihood: Floats | None,
    rng: np.random.Generator,
    kind: Kind = "ridge",
) -> list[dict[str, Any]]:
    """Errors on held-out pairs by the number of pairs fitted on: `fitted_on`, then the errors as in a card.

    Each point is a cross-validation that fits on an eighth, a quarter, half or all of the pairs of a training fold.
    Takes and raises what `AccuracyPredictor.fit` does.
    """
    pairs = _Pairs.checked(space, genomes, accuracy, log_likelihood, kind)
    seen = len(genomes) * (FOLDS - 1) // FOLDS
    sizes = sorted({max(MIN_PAIRS // 2, seen // part) for part in (8, 4, 2, 1)})
    return [{"fitted_on": size, **pairs.errors(*pairs.held_out(rng, size))} for size in sizes]


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


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """N measured pairs. features: (N, F). target: (N,) what the layers are fitted on. accuracy, flops: (N,)."""

    features: NDArray[np.float32]
    target: Floats
    accuracy: Floats
    flops: Floats
    kind: Kind

    @classmethod
    def checked(
        cls, space: SearchSpace, genomes: Genomes, accuracy: Floats, log_likelihood: Floats | None, kind: Kind
    ) -> Self:
        accuracy = np.asarray(accuracy, np.float64)
        if len(genomes) < MIN_PAIRS or accuracy.shape != (len(genomes),):
            raise ValueError(f"{len(genomes)} genomes, {accuracy.size} accuracies; at least {MIN_PAIRS} pairs needed")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(f"an accuracy is a fraction in [0, 1]; the largest given is {accuracy.max()}")
        if log_likelihood is None:
            bounded = np.clip(accuracy, MARGIN, 1 - MARGIN)
            target = np.log(bounded / (1 - bounded))
        else:
            target = np.asarray(log_likelihood, np.float64)
        if target.shape != accuracy.shape or not np.isfinite(target).all():
            raise ValueError(f"{len(genomes)} finite log-likelihoods needed, one per genome")
        return cls(one_hot(space, genomes), target, accuracy, CostTables(space).flops(genomes), kind)

    def fit(self, rows: NDArray[np.intp], rng: np.random.Generator) -> tuple[tuple[Layer, ...], Link]:
        """The layers and the link fitted on these rows."""
        features, target = self.features[rows], self.target[rows]
        layers = _ridge(features, target) if self.kind == "ridge" else _mlp(features, target, rng)
        return layers, Link.fit(_forward(layers, features), self.accuracy[rows])

    def held_out(self, rng: np.random.Generator, size: int | None = None) -> tuple[Floats, Floats]:
        """(N,) scores and predicted accuracies of held-out pairs, by cross-validation that fits on at most `size`."""
        scores, predicted = np.empty_like(self.target), np.empty_like(self.target)
        for seen, unseen in folds(len(self.target), FOLDS, rng):
            layers, link = self.fit(seen if size is None else rng.permutation(seen)[:size], rng)
            scores[unseen] = _forward(layers, self.features[unseen])
            predicted[unseen] = link(scores[unseen])
        return scores, predicted

    def errors(self, scores: Floats, predicted: Floats) -> dict[str, Any]:
        """Errors over all pairs, and over the pairs near the front of FLOPs and target, where searches end.

        Near the front are the first ranks of non-dominated sorting that hold at least a quarter of the pairs.
        """
        ranks = dominance_ranks(np.stack([self.flops, -self.target], axis=1))
        near = ranks <= np.sort(ranks)[len(ranks) // 4]
        return {
            "rmse": _rmse(predicted, self.accuracy),
            "kendall_tau": kendall_tau(scores, self.target),
            "kendall_tau_accuracy": kendall_tau(predicted, self.accuracy),
            "near_front": {
                "pairs": int(near.sum()),
                "rmse": _rmse(predicted[near], self.accuracy[near]),
                "kendall_tau": kendall_tau(scores[near], self.target[near]),
            },
        }


def _rmse(predicted: Floats, measured: Floats) -> float:
    return float(np.sqrt(np.mean((predicted - measured) ** 2)))


def _forward(layers: Sequence[Layer], features: NDArray[np.float32]) -> Floats:
    """(N,) scores."""
    values = features
    for depth, (weight, bias) in enumerate(layers):
        values = values @ weight
        values += bias
        if depth + 1 < len(layers):
            np.maximum(values, 0, out=values)
    return values[:, 0].astype(np.float64)


def _ridge(features: NDArray[np.float32], target: Floats) -> tuple[Layer, ...]:
    """One layer by ridge regression with the penalty of lowest leave-one-out error; the intercept is not penalised."""
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(PENALTIES, gcv_mode="svd").fit(features.astype(np.float64), target)
    return ((ridge.coef_[:, None].astype(np.float32), np.array([ridge.intercept_], np.float32)),)


def _mlp(features: NDArray[np.float32], target: Floats, rng: np.random.Generator) -> tuple[Layer, ...]:
    """Once-for-All's predictor: three hidden layers, Adam, squared error on standardised targets, cosine schedule."""
    import torch

    mean, spread = float(target.mean()), float(target.std()) or 1.0
    x = torch.from_numpy(features)
    y = torch.from_numpy(((target - mean) / spread).astype(np.float32))
    sizes = (features.shape[1], *HIDDEN, 1)
    parameters = []
    for inputs, outputs in pairwise(sizes):
        scale = math.sqrt(2 / inputs) if outputs > 1 else math.sqrt(1 / inputs)
        weight = scale * rng.standard_normal((inputs, outputs))
        parameters += [torch.tensor(weight, dtype=torch.float32), torch.zeros(outputs)]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, MLP_STEPS)
    for _ in range(MLP_STEPS):
        batch = torch.from_numpy(rng.choice(len(target), min(MLP_BATCH, len(target)), replace=False))
        values = x[batch]
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            values = torch.relu(values @ weight + bias)
        loss = torch.mean(((values @ parameters[-2] + parameters[-1])[:, 0] - y[batch]) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weights = [parameter.detach().numpy() for parameter in parameters]
    weights[-2], weights[-1] = weights[-2] * np.float32(spread), weights[-1] * np.float32(spread) + np.float32(mean)
    return tuple(zip(weights[::2], weights[1::2], strict=True))
