"""Gradients through the predictor and the cost tables, over a categorical distribution per gene. Needs torch.

A step draws soft one-hot genes z = softmax((logits + Gumbel noise) / temperature) and climbs

    accuracy(z) / spread - PENALTY * sum over limits of max(0, E[cost](z) / limit - 1)

The accuracy is the predictor's, on z. The expected cost is that of ProxylessNAS-G (arXiv:1812.00332, section 3.3.1):
the sum of the tables' entries, each times the probability of its genes, which are independent. Likewise a gene lives
with the probability that its stage is deep enough. There and in FBNet (arXiv:1812.03443, eq. 2) all cost counts; here
only what is above a limit does. `spread`, the deviation of predicted accuracies over the space, makes the step size and
the penalty suit every problem.

`Gumbel` takes arg-max genes forward and the gradient of z back, one_hot(arg max z) - z.detach() + z, as GDAS does
(arXiv:1910.04465, section 3.2; temperature 10 to 0.1). `SoftGumbel` takes z itself, as SNAS (arXiv:1812.09926, section
2.2) and FBNet (section 3.3) do; temperature 1 to 0.33. When the schedule ends, or nothing new was sampled, another one
begins from uniform logits.

Asked are the most probable genome and samples; the search moves them inside the limits, which are soft here. Every
sample that went forward counts as an evaluation, in `spent`; what was asked is scored, and counts, once more.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evolution.costs import AdditiveCost, Cost, CostTables
from evolution.predictors.accuracy import Layer, Link
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = 8  # per step
STEPS = 8  # per `ask`
SCHEDULE = 200  # steps from the first temperature to the last
ASKED = 16
CALIBRATION = 64  # random architectures for the spread of accuracies
STEP = 0.2  # Adam's, on logits
PENALTY = 10.0  # spreads of accuracy per limit exceeded by all of it
BETAS, EPSILON = (0.9, 0.99), 1e-8  # Adam's


class Gumbel:
    """Distributions over genes that climb a relaxation of the problem, hard samples forward.

    Raises:
        ValueError: the problem's predictor has no layers to differentiate through.
    """

    hard: ClassVar[bool] = True
    temperatures: ClassVar[tuple[float, float]] = (10.0, 0.1)

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._space, self._rng = problem, problem.tables.space, rng
        self._relaxation = Relaxation(problem)
        self._spread = 0.0
        self.spent = 0
        self._told = 0  # genomes since the last `ask`
        self._start()

    @property
    def per_ask(self) -> int:
        """Samples that go forward, and once the calibration."""
        return STEPS * SAMPLES + (0 if self._spread else CALIBRATION)

    def _start(self) -> None:
        self._step = 0
        self._logits = self._relaxation.uniform
        self._moments = np.zeros((2, *self._logits.shape))

    def ask(self) -> Genomes:
        """(16, G) after eight more steps: the most probable genome, then samples."""
        if not self._spread:
            some = self._space.sample(self._rng, CALIBRATION)
            self._spread = float(self._problem.predictor.predict(some).std()) or 1.0
            self.spent += CALIBRATION
        if self._step >= SCHEDULE or not self._told:
            self._start()
        self._told = 0
        for _ in range(STEPS):
            self._climb()
        noise = self._rng.gumbel(size=(ASKED, *self._logits.shape))
        noise[0] = 0
        return self._space.canonical((self._logits + noise).argmax(-1).astype(np.int8))

    def _climb(self) -> None:
        """One step of Adam on the logits (arXiv:1412.6980, algorithm 1)."""
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
        self.spent += SAMPLES
        (gain - PENALTY * torch.relu(excess).sum(1)).mean().backward()
        assert logits.grad is not None
        gradient = torch.nan_to_num(logits.grad).numpy()
        self._step += 1
        decay = np.array(BETAS)[:, None, None]
        self._moments = decay * self._moments + (1 - decay) * np.stack([gradient, gradient**2])
        mean, square = self._moments / (1 - decay**self._step)
        self._logits = self._logits + STEP * mean / (np.sqrt(square) + EPSILON)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Nothing to learn, since the gradients are the predictor's own, but whether anything was new."""
        self._told += len(genomes)

    def state(self) -> dict[str, NDArray[Any]]:
        """The distribution, the optimiser's moments, and what was spent."""
        return {
            "logits": self._logits,
            "moments": self._moments,
            "numbers": np.array([self._step, self.spent, self._told, self._spread]),
        }

    def restore(self, state: State) -> None:
        """Continue from the distribution saved."""
        self._logits, self._moments = np.asarray(state["logits"]), np.asarray(state["moments"])
        step, spent, told, self._spread = state["numbers"].tolist()
        self._step, self.spent, self._told = int(step), int(spent), int(told)


class SoftGumbel(Gumbel):
    """The same with soft samples forward."""

    hard = False
    temperatures = (1.0, 0.33)


@runtime_checkable
class Layered(Protocol):
    """A predictor that can be differentiated: linear layers on one-hot genes, ReLU between them, a link or none."""

    @property
    def layers(self) -> Sequence[Layer]:
        """Weights (inputs, outputs) and biases (outputs,)."""

    @property
    def link(self) -> Link | None:
        """From the last layer's output to an accuracy."""


class Relaxation:
    """A problem over soft genes: differentiable, and the problem's own numbers where the genes are one-hot.

    uniform: (G, C) logits, -inf where there is no such choice.

    Raises:
        ValueError: the problem's predictor is not `Layered`.
    """

    def __init__(self, problem: Problem) -> None:
        import torch

        if not isinstance(problem.predictor, Layered):
            raise ValueError(
                f"gradients need a predictor with layers, which {type(problem.predictor).__name__} does not have; "
                "take another strategy than gumbel"
            )
        space = problem.tables.space
        exists = np.arange(space.num_choices.max()) < space.num_choices[:, None]
        self.uniform = np.where(exists, 0.0, -np.inf)
        self.uniform[0, : len(space.resolutions)][~problem.region.anchored] = -np.inf
        self._problem, self._link = problem, problem.predictor.link
        self._exists = torch.from_numpy(exists)
        genes, choices = np.nonzero(exists)  # (F,) of each column of one-hot features
        self._gene = torch.from_numpy(genes)
        probes = np.tile(space.num_choices - 1, (len(genes), 1)).astype(np.int8)
        probes[np.arange(len(genes)), genes] = choices
        self._kills = torch.from_numpy((~space.alive(probes)).astype(np.float64))  # (F, G) which genes a choice kills
        self._layers = [[torch.from_numpy(part.astype(np.float64)) for part in of] for of in problem.predictor.layers]
        expectation = _Expectation(problem.tables)
        self._limits = [(expectation.of(limit.cost, limit.max), limit.max) for limit in problem.region.constraints]
        self._minimised = expectation.of(problem.minimise, problem.minimise.ceiling) if problem.minimise else None

    def __call__(self, soft: "Tensor", spread: float) -> "tuple[Tensor, Tensor]":
        """(B, G, C) probabilities of the genes' choices -> (B,) what to maximise, (B, L) excess over the limits.

        spread: the unit that accuracies are counted in; costs are in units of their limit or floor.
        """
        import torch

        columns = soft[:, self._exists]  # (B, F)
        accuracy = self.accuracy(columns) / spread
        gain, excess = accuracy, [cost(soft) / most - 1 for cost, most in self._limits]
        if self._minimised and self._problem.minimise and self._problem.min_accuracy:
            gain = -self._minimised(soft) / self._problem.minimise.floors.min()
            excess.append(self._problem.min_accuracy / spread - accuracy)
        return gain, torch.stack(excess, 1) if excess else gain.new_zeros(len(gain), 0)

    def accuracy(self, columns: "Tensor") -> "Tensor":
        """(B,) predicted, where genes that may be dropped count as much as they are likely to live."""
        import torch

        values = columns * (1 - columns @ self._kills)[:, self._gene]
        for depth, (weight, bias) in enumerate(self._layers):
            values = (torch.relu(values) if depth else values) @ weight + bias
        score = values[:, 0]
        return torch.sigmoid(self._link.slope * score + self._link.intercept) if self._link else score


class _Expectation:
    """The parts of the tables in groups whose genes, resolution included, have as many choices each."""

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
        self._groups = [  # P parts each: genes (P, K) and which entry each combination of their choices is, (P, ...)
            (np.array([genes for genes, _ in parts]), np.stack([entries for _, entries in parts]))
            for parts in groups.values()
        ]

    def of(self, cost: Cost, unknown: float) -> "Callable[[Tensor], Tensor]":
        """The expected cost (B,) as a function of soft genes (B, G, C); of a peak, the largest of what parts expect.

        unknown: what entries without a value count.
        """
        import torch

        values = np.where(np.isfinite(cost.values), cost.values, unknown)
        added = isinstance(cost, AdditiveCost)
        scales, offsets = (cost.scale, cost.offset) if isinstance(cost, AdditiveCost) else self._identity
        offset, groups = torch.from_numpy(offsets), []
        for genes, entries in self._groups:
            scale = scales.reshape(-1, *(1 for _ in entries.shape[2:]))  # the first of a part's genes
            groups.append((genes, torch.from_numpy(values[entries] * scale)))

        def expected(soft: "Tensor") -> "Tensor":
            total = soft[:, 0, : len(offset)] @ offset
            for genes, table in groups:
                left = table[None]  # (1, P, ...), then (B, P, ...) with one gene's axis less in each round
                for k in reversed(range(genes.shape[1])):
                    likely = soft[:, genes[:, k], : table.shape[1 + k]]  # (B, P, n)
                    left = (left * likely.reshape(*likely.shape[:2], *(1 for _ in range(k)), -1)).sum(-1)
                total = total + left.sum(1) if added else torch.maximum(total, left.amax(1))
            return total

        return expected
