"""A controller trained by REINFORCE on the predictor (arXiv:1611.01578; ProxylessNAS-R, arXiv:1812.00332, section 3.3).

The controller is a categorical distribution per gene. Its reward for a sample is MnasNet's (arXiv:1807.11626, eq. 2 and
3), ACC x (LAT / T)^w, with w = 0 within the limit, where nothing is gained by being cheaper, and that paper's -0.07
above it; several limits multiply. LAT is the cost of the sample itself. ACC is that of the sample moved inside the
limits, since nothing outside is ever scored. That is why the paper's -1 for hard limits, which would settle the cost
before accuracies count, is not needed. The logits climb

    mean over samples of (reward - baseline) * d log p(sample) + ENTROPY * d entropy

with a moving average as the baseline, as in ENAS (arXiv:1802.03268), in units of the rewards' moving deviation, so that
one step size suits every problem. Genes of dropped blocks are not part of a sample's probability. When a step's samples
have all been scored before, the controller has converged, and a new one starts.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

SAMPLES = 16  # per step
OVER = -0.07  # w above a limit
STEP = 0.5
ENTROPY = 0.01
MEMORY = 0.9  # of the moving averages


class Reinforce:
    """Samples a controller and moves its probabilities towards what earned more than usual."""

    spent = per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        space = problem.tables.space
        exists = np.arange(space.num_choices.max()) < space.num_choices[:, None]
        exists[0, : len(space.resolutions)] &= self._region.anchored
        self._exists = exists  # (G, C)
        self._start()
        self._told = 1  # genomes since the last `ask`
        self._samples = self._moved = np.zeros((0, space.num_genes), np.int8)  # of the last `ask`
        self._scored: dict[bytes, float] = {}  # fitness by genome

    def _start(self) -> None:
        """A new controller, uniform over the choices."""
        self._logits = np.where(self._exists, 0.0, -np.inf)  # (G, C)
        self._baseline, self._deviation = np.nan, np.nan

    def ask(self) -> Genomes:
        """(16, G) samples moved inside the limits."""
        self._learn()
        if not self._told:
            self._start()
        self._told = 0
        ends = self._probabilities.cumsum(1)
        ends /= ends[:, -1:]
        drawn = (self._rng.random((SAMPLES, len(ends), 1)) >= ends).sum(-1)
        self._samples = self._problem.tables.space.canonical(drawn.astype(np.int8))
        self._moved = self._region.repair(self._samples, self._rng)
        return self._moved

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Remember the scores; what was scored before is sampled again and is then not told again."""
        self._told += len(genomes)
        self._scored |= zip(map(bytes, genomes), scores.fitness.tolist(), strict=True)

    @property
    def _probabilities(self) -> Floats:
        """(G, C) 0 where a gene has no such choice."""
        weights = np.exp(self._logits - self._logits.max(1, keepdims=True))
        probabilities: Floats = weights / weights.sum(1, keepdims=True)
        return probabilities

    def _learn(self) -> None:
        """One step on the last samples whose scores are known."""
        fitness = np.array([self._scored.get(bytes(genome), np.nan) for genome in self._moved])
        known = np.isfinite(fitness)
        if not known.any():
            return
        samples, reward = self._samples[known], self._reward(self._samples[known], fitness[known])
        if np.isnan(self._baseline):
            self._baseline, self._deviation = reward.mean(), reward.std()
        advantage = (reward - self._baseline) / max(self._deviation, np.finfo(np.float64).tiny)
        p = self._probabilities
        chosen = samples[..., None] == np.arange(p.shape[1])  # (N, G, C)
        alive = self._problem.tables.space.alive(samples)
        gradient = np.einsum("n,ng,ngc->gc", advantage, alive, chosen - p) / len(samples)
        surprise = -np.log(p, out=np.zeros_like(p), where=p > 0)
        entropy = (p * surprise).sum(1, keepdims=True)
        self._logits = self._logits + STEP * (gradient + ENTROPY * p * (surprise - entropy))
        self._baseline = MEMORY * self._baseline + (1 - MEMORY) * reward.mean()
        self._deviation = MEMORY * self._deviation + (1 - MEMORY) * reward.std()

    def _reward(self, samples: Genomes, fitness: Floats) -> Floats:
        """(N,) rewards, positive. A minimised cost, whose fitness is negative, earns its inverse."""
        excess = np.maximum(1, self._region.costs(samples) / self._region.maxima)  # (N, L)
        gain = fitness if self._problem.minimise is None else -1 / fitness
        reward: Floats = gain * (excess**OVER).prod(1)
        return reward

    def state(self) -> dict[str, NDArray[Any]]:
        """The controller, its averages, the last samples, and the scores told."""
        return {
            "logits": self._logits,
            "numbers": np.array([self._baseline, self._deviation, self._told]),
            "samples": self._samples,
            "moved": self._moved,
            "genomes": np.frombuffer(b"".join(self._scored), np.int8).reshape(-1, self._logits.shape[0]),
            "fitness": np.array(list(self._scored.values())),
        }

    def restore(self, state: State) -> None:
        """Continue from the controller saved."""
        self._logits, self._samples, self._moved = (np.asarray(state[name]) for name in ("logits", "samples", "moved"))
        self._baseline, self._deviation, told = state["numbers"].tolist()
        self._told = int(told)
        self._scored = dict(zip(map(bytes, state["genomes"]), state["fitness"].tolist(), strict=True))
