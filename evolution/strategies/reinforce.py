"""A controller trained by REINFORCE on the predictor (arXiv:1611.01578; ProxylessNAS-R, arXiv:1812.00332, section 3.3).

The controller is a categorical distribution per gene. Each step:

1. Draw samples. Propose them moved inside the limits, since only architectures inside are ever scored.
2. The reward of a sample is MnasNet's (arXiv:1807.11626, eq. 2 and 3), ACC x (LAT / T)^w. LAT is the cost of the sample
   itself, ACC the accuracy of the sample moved inside. w is 0 within the limit, where being cheaper gains nothing, and
   the paper's -0.07 above it. Several limits multiply. The paper's w = -1 for hard limits, which would settle the cost
   before accuracy counts, is not needed, because every proposal is inside.
3. The logits move along

       mean over samples of (reward - baseline) * d log p(sample) + ENTROPY * d entropy

   The baseline is a moving average, as in ENAS (arXiv:1802.03268). The advantage is divided by the moving deviation of
   rewards, so that one step size suits every problem. Genes of dropped blocks are not part of a sample's probability.
4. If all samples of a step were scored before, the controller has converged, and a new one starts.
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
    """Samples a controller and makes samples with more than the usual reward more probable."""

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        space = problem.tables.space
        self._open = self._region.choices.open.copy()  # (G, C)
        self._open[0, : len(space.resolutions)] &= self._region.anchored
        self._start()
        self._num_scored = 1  # genomes since the last `ask`
        self._samples = self._moved = np.zeros((0, space.num_genes), np.int8)  # of the last `ask`
        self._scored: dict[bytes, float] = {}  # fitness by genome

    def _start(self) -> None:
        """A new controller, uniform over the open choices."""
        self._logits = np.where(self._open, 0.0, -np.inf)  # (G, C)
        self._baseline, self._deviation = np.nan, np.nan

    def ask(self) -> Genomes:
        """(16, G) samples moved inside the limits."""
        self._learn()
        if not self._num_scored:
            self._start()
        self._num_scored = 0
        ends = self._probabilities.cumsum(1)
        ends /= ends[:, -1:]
        choices = (self._rng.random((SAMPLES, len(ends), 1)) >= ends).sum(-1)
        self._samples = self._problem.tables.space.canonical(choices.astype(np.int8))
        self._moved = self._region.repair(self._samples, self._rng)
        return self._moved

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Remember the scores, since a genome that is sampled again is not told again."""
        self._num_scored += len(genomes)
        self._scored |= zip(map(bytes, genomes), scores.fitness.tolist(), strict=True)

    @property
    def _probabilities(self) -> Floats:
        """(G, C) 0 where a gene has no such open choice."""
        weights = np.exp(self._logits - self._logits.max(1, keepdims=True))
        probabilities: Floats = weights / weights.sum(1, keepdims=True)
        return probabilities

    def _learn(self) -> None:
        """One step on those of the last samples that have scores."""
        fitness = np.array([self._scored.get(bytes(genome), np.nan) for genome in self._moved])
        scored = np.isfinite(fitness)
        if not scored.any():
            return
        samples, reward = self._samples[scored], self._reward(self._samples[scored], fitness[scored])
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
        """(N,) rewards, positive. With a minimised cost, whose fitness is negative, the gain is its inverse."""
        excess = np.maximum(1, self._region.costs(samples) / self._region.maxima)  # (N, L)
        gain = fitness if self._problem.minimise is None else -1 / fitness
        reward: Floats = gain * (excess**OVER).prod(1)
        return reward

    def state(self) -> dict[str, NDArray[Any]]:
        """The controller, its averages, the last samples, and all scores."""
        return {
            "logits": self._logits,
            "numbers": np.array([self._baseline, self._deviation, self._num_scored]),
            "samples": self._samples,
            "moved": self._moved,
            "genomes": np.frombuffer(b"".join(self._scored), np.int8).reshape(-1, self._logits.shape[0]),
            "fitness": np.array(list(self._scored.values())),
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._logits, self._samples, self._moved = (np.asarray(state[name]) for name in ("logits", "samples", "moved"))
        self._baseline, self._deviation, num_scored = state["numbers"].tolist()
        self._num_scored = int(num_scored)
        self._scored = dict(zip(map(bytes, state["genomes"]), state["fitness"].tolist(), strict=True))
