"""Gaussian-process regression with a linear and a squared-exponential kernel; fitted by scikit-learn.

    k(x, x') = linear_variance x·x' + rbf_variance exp(-|x - x'|² / (2 length_scale²))

x are the features of an architecture, coded by `features.cumulative`.

The linear kernel learns what each gene does by itself, the other one what genes do together (C. Rasmussen, C. Williams,
"Gaussian processes for machine learning", 2006, equations 2.25, 2.26 and 5.8).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.features import Features

MAX_PAIRS = 4_000  # of more, random ones are fitted on, since time and memory grow with the square of their number
MAX_LIKELIHOOD_PAIRS = 500  # of more, random ones choose the hyperparameters
LINEAR_VARIANCES, RBF_VARIANCES, NOISE_VARIANCES = (1e-6, 1e2), (1e-4, 1e3), (1e-5, 1e1)  # of standardised targets
LENGTH_SCALES = (1.0, 1e2)
CHUNK = 512  # architectures scored at once, so that their kernel stays in the cache


class Products(NamedTuple):
    """The mean of features is features @ weights + exp(features @ exponents + offsets) @ amplitudes, and the target's.

    weights: (F,). exponents: (F, n). offsets, amplitudes: (n,).
    """

    weights: Features
    exponents: Features
    offsets: Features
    amplitudes: Features


@dataclass(frozen=True, eq=False)
class Kernel:
    """The mean and the variance of a Gaussian process given n pairs.

    coding: (F, D) from features to x, zeros and ones. support: (n, F) the features fitted on. dual: (n,) the inverse of
    the kernel matrix with noise, times the targets less their mean. Variances are in squared units of the target.
    """

    coding: NDArray[np.uint8]
    support: NDArray[np.uint8]
    dual: Floats
    mean: float
    linear_variance: float
    rbf_variance: float
    length_scale: float
    noise_variance: float

    def score(self, features: Features) -> Floats:
        """(N,) means."""
        weights, exponents, offsets, amplitudes = self.products
        scores = np.empty(len(features))
        for start in range(0, len(features), CHUNK):
            rows = features[start : start + CHUNK]
            kernel = rows @ exponents
            kernel += offsets
            np.exp(kernel, out=kernel)
            scores[start : start + CHUNK] = kernel @ amplitudes + rows @ weights
        scores += self.mean
        return scores

    @cached_property
    def products(self) -> Products:
        """What `score` multiplies. As codes are zeros and ones, |x|² is the sum of x, linear in the features."""
        coded = self._coded(self.support)
        weights = self.linear_variance * self.coding @ (coded.T @ self.dual)
        exponents = (self.coding @ coded.T - self.coding.sum(1)[:, None] / 2) / self.length_scale**2
        offsets = -coded.sum(1) / 2 / self.length_scale**2
        arrays = (weights, exponents, offsets, self.rbf_variance * self.dual)
        return Products(*(array.astype(np.float32) for array in arrays))

    def score_std(self, features: Features) -> Floats:
        """(N,) standard deviations of the mean, without the noise of a measurement."""
        x = self._coded(features)
        kernel = self._kernel(x)
        prior = self.linear_variance * (x**2).sum(1) + self.rbf_variance
        std: Floats = np.sqrt(np.maximum(prior - (kernel @ self._precision * kernel).sum(1), 0))
        return std

    @cached_property
    def _precision(self) -> Floats:
        """(n, n) the inverse of the kernel matrix with noise."""
        kernel = self._kernel(self._coded(self.support))
        kernel[np.diag_indices(len(kernel))] += self.noise_variance
        return np.linalg.inv(kernel).astype(np.float64, copy=False)

    def _kernel(self, x: Floats) -> Floats:
        """(N, n) the kernel of (N, D) codes and the support's."""
        support = self._coded(self.support)
        products = x @ support.T
        distances = (x**2).sum(1)[:, None] + (support**2).sum(1) - 2 * products
        kernel: Floats = self.linear_variance * products
        kernel += self.rbf_variance * np.exp(-distances / (2 * self.length_scale**2))
        return kernel

    def _coded(self, features: NDArray[Any]) -> Floats:
        return features.astype(np.float64) @ self.coding

    @property
    def additive(self) -> None:
        """None, since the score is not a sum over genes."""
        return None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """By name, what `from_arrays` reads."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Raises KeyError: an array is missing."""
        coding, support, dual, *numbers = (arrays[field.name] for field in fields(cls))
        return cls(coding, support, dual, *map(float, numbers))


def fit_kernel(features: Features, target: Floats, coding: Features, rng: np.random.Generator) -> Kernel:
    """Fit on features (n, F) and targets (n,). The hyperparameters have the highest marginal likelihood."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    if len(features) > MAX_PAIRS:
        rows = rng.choice(len(features), MAX_PAIRS, replace=False)
        features, target = features[rows], target[rows]
    mean, spread = float(target.mean()), float(target.std()) or 1.0
    x, y = (features @ coding).astype(np.float64), (target - mean) / spread
    linear = ConstantKernel(1 / x.shape[1], LINEAR_VARIANCES) * DotProduct(0, sigma_0_bounds="fixed")
    rbf = ConstantKernel(1.0, RBF_VARIANCES) * RBF(float(np.sqrt(x.sum(1).mean())), LENGTH_SCALES)
    kernel = linear + rbf + WhiteKernel(0.01, NOISE_VARIANCES)
    rows = rng.permutation(len(x))[:MAX_LIKELIHOOD_PAIRS]
    with warnings.catch_warnings():  # a hyperparameter at its bound is a fit as good as any
        warnings.simplefilter("ignore", ConvergenceWarning)
        kernel = GaussianProcessRegressor(kernel, alpha=0).fit(x[rows], y[rows]).kernel_
    fitted = GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit(x, y)
    (linear, rbf), noise = (kernel.k1.k1, kernel.k1.k2), kernel.k2
    return Kernel(
        coding.astype(np.uint8),
        features.astype(np.uint8),
        fitted.alpha_ / spread,
        mean,
        spread**2 * linear.k1.constant_value,
        spread**2 * rbf.k1.constant_value,
        rbf.k2.length_scale,
        spread**2 * noise.noise_level,
    )
