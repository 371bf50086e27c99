"""Models of linear layers with ReLU between them: one layer by ridge regression, four by gradient descent.

Only fitting several layers loads torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.features import Features

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]  # weight (inputs, outputs), bias (outputs,)

PENALTIES = np.logspace(-3, 5, 33)  # of ridge, on one-hot features
HIDDEN = (400, 400, 400)  # Once-for-All's; the settings below suit hundreds of pairs instead of its 16,000
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
MLP_STEPS, MLP_BATCH = 800, 128


@dataclass(frozen=True, eq=False)
class Layers:
    """Linear layers with ReLU between them."""

    layers: tuple[Layer, ...]

    def score(self, features: Features) -> Floats:
        """(N,) outputs of the last layer; of an only layer in double precision, so that no order of its sum matters."""
        if (additive := self.additive) is not None:
            scores: Floats = features @ additive[0] + additive[1]
            return scores
        values = features
        for depth, (weight, bias) in enumerate(self.layers):
            values = values @ weight
            values += bias
            if depth + 1 < len(self.layers):
                np.maximum(values, 0, out=values)
        return values[:, 0].astype(np.float64)

    def score_std(self, features: Features) -> Floats:
        """(N,) zeros, since layers do not know where they are less sure."""
        return np.zeros(len(features))

    @property
    def additive(self) -> tuple[Floats, float] | None:
        """The only layer's weights (F,) and bias; None if there are more layers."""
        if len(self.layers) > 1:
            return None
        weight, bias = self.layers[0]
        return weight[:, 0].astype(np.float64), float(bias[0])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """By name, what `from_arrays` reads."""
        return {
            f"{name}{i}": value for i, layer in enumerate(self.layers) for name, value in zip("wb", layer, strict=True)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Raises KeyError: the weights of a layer are missing."""
        depth = sum(name.startswith("w") for name in arrays)
        return cls(tuple((arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(depth)))


def fit_ridge(features: Features, target: Floats) -> Layers:
    """One layer by ridge regression with the penalty of lowest leave-one-out error; the intercept is not penalised."""
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(PENALTIES, gcv_mode="svd").fit(features.astype(np.float64), target)
    return Layers(((ridge.coef_[:, None].astype(np.float32), np.array([ridge.intercept_], np.float32)),))


def fit_mlp(features: Features, target: Floats, rng: np.random.Generator) -> Layers:
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
    return Layers(tuple(zip(weights[::2], weights[1::2], strict=True)))
