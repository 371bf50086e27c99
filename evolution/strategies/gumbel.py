"""Gradients through the predictor and the cost tables, over a categorical distribution per gene. Needs torch.

A step draws soft one-hot genes z = softmax((logits + Gumbel noise) / temperature) and climbs

    accuracy(z) / spread - PENALTY * sum over limits of max(0, E[cost](z) / limit - 1)

- accuracy(z) is what the predictor gives for z.
- E[cost](z) is the expected cost of ProxylessNAS-G (arXiv:1812.00332, section 3.3.1): the sum of the tables' entries,
  each times the probability of its genes, which are independent. Likewise a gene is alive with the probability that its
  stage is deep enough. In ProxylessNAS and FBNet (arXiv:1812.03443, eq. 2) all cost counts; here only the cost above a
  limit does.
- spread is the standard deviation of predicted accuracies over the space. It makes the step size and the penalty
  suit every problem.

`Gumbel` uses arg-max genes in the forward pass and the gradient of z in the backward pass,
one_hot(arg max z) - z.detach() + z, as GDAS does (arXiv:1910.04465, section 3.2; temperature 10 to 0.1). `SoftGumbel`
uses z itself, as SNAS (arXiv:1812.09926, section 2.2) and FBNet (section 3.3) do; temperature 1 to 0.33.

Each `ask`:

1. Start again from uniform logits if the schedule has ended or the last `ask` gave nothing new.
2. Take `STEPS` steps. Every sample of a step counts as an evaluation, in `own_predictions`.
3. Propose the most probable genome and samples of the distribution. The search moves them inside the limits, which
   are soft here. Scoring them counts as evaluations once more.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evolution.costs import AdditiveCost, Cost, CostTables
from evolution.predictors.fitting import Model
from evolution.predictors.kernel import Kernel
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = 8  # per step
STEPS = 8  # per `ask`
SCHEDULE = 200  # steps from the first temperature to the last
PROPOSALS = 16  # per `ask`
CALIBRATION = 64  # random architectures for the spread of accuracies
STEP = 0.2  # Adam's, on logits
PENALTY = 10.0  # spreads of accuracy per limit exceeded by all of it
BETAS, EPSILON = (0.9, 0.99), 1e-8  # Adam's


class Gumbel:
    """A categorical distribution per gene, moved along the gradient of a relaxed problem; hard samples go forward.

    Raises:
        ValueError: the problem's predictor has no model with a gradient.
    """

    hard: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (10.0, 0.1)

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._space, self._rng = problem, problem.tables.space, rng
        self._relaxation = Relaxation(problem)
        self._spread = 0.0
        self.own_predictions = 0
        self._num_scored = 0  # genomes since the last `ask`
        self._start()

    @property
    def own_predictions_per_ask(self) -> int:
        """The samples of the steps, and once the calibration."""
        return STEPS * SAMPLES + (0 if self._spread else CALIBRATION)

    def _start(self) -> None:
        self._step = 0
        self._logits = self._relaxation.uniform
        self._moments = np.zeros((2, *self._logits.shape))

    def ask(self) -> Genomes:
        """(16, G) the most probable genome after eight more steps, then samples."""
        if not self._spread:
            genomes = self._problem.region.choices.sample(self._rng, CALIBRATION)
            self._spread = float(self._problem.predictor.predict(genomes).std()) or 1.0
            self.own_predictions += CALIBRATION
        if self._step >= SCHEDULE or not self._num_scored:
            self._start()
        self._num_scored = 0
        for _ in range(STEPS):
            self._climb()
        noise = self._rng.gumbel(size=(PROPOSALS, *self._logits.shape))
        noise[0] = 0
        return self._space.canonical((self._logits + noise).argmax(-1).astype(np.int8))

    def _climb(self) -> None:
        """One step of Adam on the logits (arXiv:1412.6980, algorithm 1).

        Written out: `torch.optim.Adam` rounds in another order, which changes the answers of seeds used before.
        """
        import torch

        first, last = self.temperatures
        temperature = first * (last / first) ** (self._step / (SCHEDULE - 1))
        logits = torch.tensor(self._logits, requires_grad=True)
        noise = torch.from_numpy(self._rng.gumbel(size=(SAMPLES, *self._logits.shape)))
        soft = torch.softmax((logits + noise) / temperature, -1)
        if self.hard:
            chosen = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1])
            soft = chosen - soft.detach() + soft
        gain, excess = self._relaxation(soft, self._spread)
        self.own_predictions += SAMPLES
        (gain - PENALTY * torch.relu(excess).sum(1)).mean().backward()
        assert logits.grad is not None
        gradient = torch.nan_to_num(logits.grad).numpy()
        self._step += 1
        decay = np.array(BETAS)[:, None, None]
        self._moments = decay * self._moments + (1 - decay) * np.stack([gradient, gradient**2])
        mean, square = self._moments / (1 - decay**self._step)
        self._logits = self._logits + STEP * mean / (np.sqrt(square) + EPSILON)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Only count the genomes, since the gradients come from the predictor itself."""
        self._num_scored += len(genomes)

    def state(self) -> dict[str, NDArray[Any]]:
        """The distribution, the optimiser's moments, and the counters."""
        return {
            "logits": self._logits,
            "moments": self._moments,
            "numbers": np.array([self._step, self.own_predictions, self._num_scored, self._spread]),
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._logits, self._moments = np.asarray(state["logits"]), np.asarray(state["moments"])
        step, own_predictions, num_scored, self._spread = state["numbers"].tolist()
        self._step, self.own_predictions, self._num_scored = int(step), int(own_predictions), int(num_scored)


class SoftGumbel(Gumbel):
    """`Gumbel` with soft samples in the forward pass."""

    hard = False
    temperatures = (1.0, 0.33)


@runtime_checkable
class Differentiable(Protocol):
    """A predictor with a gradient: a model of one-hot genes, and perhaps a link."""

    @property
    def model(self) -> Model:
        """Layers or a kernel."""

    @property
    def link(self) -> Link | None:
        """From the model's score to an accuracy; None where the score is the accuracy."""


class Relaxation:
    """A differentiable problem over soft genes. On one-hot genes its numbers equal the problem's.

    uniform: (G, C) logits, -inf where a gene has no such open choice.

    Raises:
        ValueError: the problem's predictor is not `Differentiable`, or its model is none that has a gradient.
    """

    def __init__(self, problem: Problem) -> None:
        import torch

        if not isinstance(problem.predictor, Differentiable):
            raise ValueError(
                "gradients need a predictor with layers or a kernel, which "
                f"{type(problem.predictor).__name__} does not have; take another strategy than gumbel"
            )
        space = problem.tables.space
        exists = np.arange(space.num_choices.max()) < space.num_choices[:, None]
        self.uniform = np.where(problem.region.choices.open, 0.0, -np.inf)
        self.uniform[0, : len(space.resolutions)][~problem.region.anchored] = -np.inf
        self._problem, self._link = problem, problem.predictor.link
        self._exists = torch.from_numpy(exists)
        genes, choices = np.nonzero(exists)  # (F,) of each column of one-hot features
        self._gene = torch.from_numpy(genes)
        probes = np.tile(space.num_choices - 1, (len(genes), 1)).astype(np.int8)
        probes[np.arange(len(genes)), genes] = choices
        self._drops = torch.from_numpy((~space.alive(probes)).astype(np.float64))  # (F, G) the genes a choice drops
        self._score = _differentiable(problem.predictor.model)
        expectation = _Expectation(problem.tables)
        self._limits = [(expectation.cost(limit.cost, limit.max), limit.max) for limit in problem.region.constraints]
        self._minimised = expectation.cost(problem.minimise, problem.minimise.ceiling) if problem.minimise else None

    def __call__(self, soft: "Tensor", spread: float) -> "tuple[Tensor, Tensor]":
        """The gain (B,), to be maximised, and the excess over the limits (B, L) of soft genes (B, G, C).

        spread: the unit of accuracies. Costs are in units of their limit or floor.
        """
        import torch

        columns = soft[:, self._exists]  # (B, F)
        accuracy = self.accuracy(columns) / spread
        gain, excess = accuracy, [cost(soft) / maximum - 1 for cost, maximum in self._limits]
        if self._minimised and self._problem.minimise and self._problem.min_accuracy:
            gain = -self._minimised(soft) / self._problem.minimise.floors.min()
            excess.append(self._problem.min_accuracy / spread - accuracy)
        return gain, torch.stack(excess, 1) if excess else gain.new_zeros(len(gain), 0)

    def accuracy(self, columns: "Tensor") -> "Tensor":
        """(B,) predicted from columns (B, F), each gene weighted with the probability that it is alive."""
        import torch

        score = self._score(columns * (1 - columns @ self._drops)[:, self._gene])
        return torch.sigmoid(self._link.slope * score + self._link.intercept) if self._link else score


def _differentiable(model: Model) -> "Callable[[Tensor], Tensor]":
    """The scores (B,) of a model as a function of features (B, F)."""
    import torch

    def tensor(array: NDArray[Any]) -> "Tensor":
        return torch.from_numpy(array.astype(np.float64))

    if isinstance(model, Kernel):
        weights, exponents, offsets, amplitudes = map(tensor, model.products)
        return lambda x: x @ weights + torch.exp(x @ exponents + offsets) @ amplitudes + model.mean
    if not isinstance(model, Layers):
        raise ValueError(f"gumbel knows no gradient of a {type(model).__name__}; take another strategy")
    layers = [(tensor(weight), tensor(bias)) for weight, bias in model.layers]

    def score(values: "Tensor") -> "Tensor":
        for depth, (weight, bias) in enumerate(layers):
            values = (torch.relu(values) if depth else values) @ weight + bias
        return values[:, 0]

    return score


class _Expectation:
    """Expected costs of soft genes.

    Parts whose genes, resolution included, have equal numbers of choices form a group, which is computed at once.
    """

    def __init__(self, tables: CostTables) -> None:
        space = tables.space
        self._identity = np.ones(len(space.resolutions)), np.zeros(len(space.resolutions))
        groups: dict[tuple[int, ...], list[tuple[list[int], NDArray[np.intp]]]] = {}
        for p, part in enumerate(space.parts):
            genes = sorted({0, *part.genes})
            shape = tuple(space.num_choices[genes].tolist())
            genomes = np.zeros((int(np.prod(shape)), space.num_genes), np.int8)
            genomes[:, genes] = np.stack(np.unravel_index(np.arange(len(genomes)), shape), 1)
            groups.setdefault(shape, []).append((genes, tables.index(genomes)[:, p].reshape(shape)))
        self._groups = [  # of P parts: their genes (P, K), and the entry of each combination of choices (P, ...)
            (np.array([genes for genes, _ in parts]), np.stack([entries for _, entries in parts]))
            for parts in groups.values()
        ]

    def cost(self, cost: Cost, unknown: float) -> "Callable[[Tensor], Tensor]":
        """The expected cost (B,) as a function of soft genes (B, G, C).

        For a peak it is the largest of the parts' expected values. unknown: the value of entries that have none.
        """
        import torch

        entry_values = np.where(np.isfinite(cost.values), cost.values, unknown)
        additive = isinstance(cost, AdditiveCost)
        scales, offsets = (cost.scale, cost.offset) if isinstance(cost, AdditiveCost) else self._identity
        offset, groups = torch.from_numpy(offsets), []
        for genes, entries in self._groups:
            scale = scales.reshape(-1, *(1 for _ in entries.shape[2:]))  # the resolution is the first gene
            groups.append((genes, torch.from_numpy(entry_values[entries] * scale)))

        def expected(soft: "Tensor") -> "Tensor":
            total = soft[:, 0, : len(offset)] @ offset
            for genes, table in groups:
                values = table[None]  # (1, P, ...), then (B, P, ...) with the axis of one gene less in each round
                for k in reversed(range(genes.shape[1])):
                    probability = soft[:, genes[:, k], : table.shape[1 + k]]  # (B, P, n)
                    shape = *probability.shape[:2], *(1 for _ in range(k)), -1
                    values = (values * probability.reshape(shape)).sum(-1)
                total = total + values.sum(1) if additive else torch.maximum(total, values.amax(1))
            return total

        return expected
