"""What a predictor gives near architectures, estimated at a fraction of the cost of predictions.

A model's score depends on sums over the features of an architecture: the pre-activations of the first layer of a
perceptron, or the exponents of a Gaussian process. What a change of features adds to these sums, its response, is the
same around every architecture with these features, and the responses of independent changes add up. So the estimate for
a set of changes is a sum of their responses and one cheap function of that:

- A Gaussian process, and a single layer: the function is the model's own, and the estimate is exact.
- Several layers: the first ReLU is exact, and what follows is linear, as it is at the architecture itself.
- Any other predictor: the predictions after single moves, which add up.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.moves import Moves
from evolution.predictors.features import Features, one_hot
from evolution.predictors.kernel import Kernel
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from evolution.problem import Problem
from supernet.space import Genomes, SearchSpace


class Near(Protocol):
    """A model near N architectures."""

    @property
    def scores(self) -> Floats:
        """(N,)."""

    @property
    def gradient(self) -> Features:
        """(N, F) by how much each feature raises the score, to first order."""

    def responses(self, changes: Features) -> Features:
        """(N, m, H) the responses of changes (N, m, F) of the features."""

    def gains(self, responses: Features) -> Features:
        """(N, q) by how much changes with responses (N, q, H) raise the score."""


@dataclass(frozen=True, eq=False)
class NearLinear:
    """A linear model. The response is what a change adds to the score."""

    scores: Floats
    gradient: Features

    def responses(self, changes: Features) -> Features:
        """(N, m, H) the responses of changes (N, m, F)."""
        responses: Features = np.matmul(changes, self.gradient[:, :, None])
        return responses

    def gains(self, responses: Features) -> Features:
        """(N, q) gains of responses (N, q, H)."""
        return responses[:, :, 0]


class NearLayers:
    """Layers whose first ReLU is exact and whose later ones pass what they pass at the N architectures.

    The response is what a change adds to the first layer's pre-activations.
    """

    def __init__(self, model: Layers, features: Features) -> None:
        (self._weight, bias), *layers = model.layers
        values = features @ self._weight + bias
        self._before, passes = values, []
        for weight, bias in layers:
            passes.append(values > 0)
            values = np.maximum(values, 0) @ weight + bias
        self.scores = values[:, 0].astype(np.float64)
        slopes: Features = np.ones((len(features), 1), np.float32)
        for (weight, _), passed in zip(layers[:0:-1], passes[:0:-1], strict=True):
            slopes = (slopes @ weight.T) * passed
        self._slopes: Features = slopes @ layers[0][0].T
        self._own = (np.maximum(self._before, 0) * self._slopes).sum(1)
        self.gradient: Features = (self._slopes * passes[0]) @ self._weight.T

    def responses(self, changes: Features) -> Features:
        """(N, m, H) the responses of changes (N, m, F)."""
        responses: Features = changes @ self._weight
        return responses

    def gains(self, responses: Features) -> Features:
        """(N, q) gains of responses (N, q, H)."""
        values = responses + self._before[:, None]
        np.maximum(values, 0, out=values)
        gains: Features = np.matmul(values, self._slopes[:, :, None])[:, :, 0] - self._own[:, None]
        return gains


class NearKernel:
    """A Gaussian process. The response is what a change adds to the exponents, and then to the linear part."""

    def __init__(self, model: Kernel, features: Features) -> None:
        products = model.products
        self._sums = np.concatenate([products.exponents, products.weights[:, None]], axis=1)
        self._terms = np.exp(features @ products.exponents + products.offsets) * products.amplitudes
        self.scores = (self._terms.sum(1) + features @ products.weights).astype(np.float64) + model.mean
        self.gradient: Features = self._terms @ products.exponents.T + products.weights

    def responses(self, changes: Features) -> Features:
        """(N, m, H) the responses of changes (N, m, F)."""
        responses: Features = changes @ self._sums
        return responses

    def gains(self, responses: Features) -> Features:
        """(N, q) gains of responses (N, q, H)."""
        factors = np.expm1(responses[:, :, :-1])
        gains: Features = np.matmul(factors, self._terms[:, :, None])[:, :, 0] + responses[:, :, -1]
        return gains


class Around(Protocol):
    """Estimates around N architectures."""

    @property
    def predictions(self) -> int:
        """What they are worth."""

    @property
    def accuracy(self) -> Floats:
        """(N,) predicted there."""

    @property
    def gains(self) -> Floats:
        """(N, M) of single moves, to first order; without meaning where a move is not possible."""

    def responses(self, moves: NDArray[np.intp]) -> Features:
        """(N, m, H) the responses of moves (N, m)."""

    def total(self, responses: Features) -> Floats:
        """(N, q) by how much moves that together have responses (N, q, H) raise the accuracy."""


class AroundModel:
    """Estimates by a model and its link."""

    def __init__(
        self,
        near: Near,
        link: Link | None,
        features: Features,
        effects: tuple[Features, Features],
        predictions: int,
    ) -> None:
        self.predictions = predictions
        self._near, self._features, (self._clears, self._adds) = near, features, effects
        self.accuracy = np.clip(near.scores, 0, 1) if link is None else link(near.scores)
        self._slopes = np.ones((len(features), 1)) if link is None else link.derivative(near.scores)[:, None]

    @property
    def gains(self) -> Floats:
        """(N, M) by the gradient."""
        gradient = self._near.gradient
        return (gradient @ self._adds.T - (gradient * self._features) @ self._clears.T) * self._slopes

    def responses(self, moves: NDArray[np.intp]) -> Features:
        """(N, m, H) the model's."""
        return self._near.responses(self._adds[moves] - self._features[:, None] * self._clears[moves])

    def total(self, responses: Features) -> Floats:
        """(N, q) the model's gains, times the slope of the link."""
        return self._near.gains(responses) * self._slopes


@dataclass(frozen=True, eq=False)
class AroundPredictions:
    """Estimates by the predictions after every single move, whose gains add up."""

    accuracy: Floats
    gains: Floats
    predictions: int

    def responses(self, moves: NDArray[np.intp]) -> Features:
        """(N, m, 1) the gains."""
        return np.take_along_axis(self.gains, moves, axis=1)[:, :, None].astype(np.float32)

    def total(self, responses: Features) -> Floats:
        """(N, q) their sums."""
        return responses[:, :, 0].astype(np.float64)


class Estimator:
    """Estimates of a problem's predictor.

    cost: the most predictions that estimates around one architecture are worth: none where the score is a sum over
    genes, one for another model, and otherwise one for each move.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._space, self._moves = problem, problem.tables.space, problem.region.moves
        model = getattr(problem.predictor, "model", None)
        self._model: Layers | Kernel | None = model if isinstance(model, Layers | Kernel) else None
        self._link: Link | None = getattr(problem.predictor, "link", None)
        self.cost = 1 + len(self._moves)
        if self._model is not None:
            self._effects = _features_of_moves(self._space, self._moves)
            self.cost = 1 if self._model.additive is None else 0

    def around(self, genomes: Genomes, possible: NDArray[np.bool_]) -> Around:
        """Estimates around N genomes (N, G). possible: (N, M) whether each move is."""
        if self._model is not None:
            features = one_hot(self._space, genomes)
            near = _near(self._model, features)
            return AroundModel(near, self._link, features, self._effects, self.cost * len(genomes))
        predict = self._problem.predictor.predict
        accuracy, gains = predict(genomes), np.zeros(possible.shape)
        rows, columns = np.nonzero(possible)
        gains[rows, columns] = predict(self._moves.apply(genomes[rows], columns)) - accuracy[rows]
        return AroundPredictions(accuracy, gains, len(genomes) + len(rows))


def _near(model: Layers | Kernel, features: Features) -> Near:
    if isinstance(model, Kernel):
        return NearKernel(model, features)
    if (additive := model.additive) is None:
        return NearLayers(model, features)
    weights, bias = additive
    return NearLinear(features @ weights + bias, np.broadcast_to(weights.astype(np.float32), features.shape))


def _features_of_moves(space: SearchSpace, moves: Moves) -> tuple[Features, Features]:
    """(M, F) the features that each move clears, and those that it then sets."""
    largest = np.repeat([space.num_choices - 1], len(moves), axis=0).astype(np.int8)
    clears = np.repeat(moves.sets, space.num_choices, axis=1).astype(np.float32)
    after = space.canonical(np.where(moves.sets, moves.values, largest))
    return clears, one_hot(space, after) * clears
