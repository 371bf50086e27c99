"""Memetic evolution: every individual climbs to a local optimum before it is crossed (P. Moscato, 1989).

Around an architecture the gains of single moves nearly add up, also where the predictor is no sum, and what a few moves
gain together can be estimated at a small part of the cost of a prediction (`evolution.strategies.estimates`). So one
step of a climb

1. estimates the gain of every move of its architecture, and takes the moves of greatest worth within the limits,
2. combines these to jumps, by a knapsack on their gains (`evolution.strategies.jumps`),
3. estimates every jump as a whole, and proposes the best to the driver.

It goes on from the best that was scored, and ends where that is no improvement. Some climbs take their steps at the
same time, since arrays of several are computed faster.

The first climb starts from the fittest architecture that the driver has scored, the others of the first `RANDOM_CLIMBS`
from random ones, and later ones from crossovers of the population: the fittest local optima that are far from each
other. A child takes every gene from either parent, or every stage, because blocks of one stage interact most. A climb
that would not enter a full population even if its last gain came `ABANDON` times more is abandoned, and so is one that
comes where another one has been.

Restarts agree when `PATIENCE` climbs in a row have led to nothing better than the best architecture.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats, row_keys
from evolution.problem import Problem, Scores
from evolution.strategies import State
from evolution.strategies.estimates import Estimator
from evolution.strategies.jumps import Items, find_jumps, find_prices, greatest_of_rows
from supernet.space import Genomes, SearchSpace

CLIMBS = 32  # at the same time; fewer in the first steps, and one if estimates take many predictions
RANDOM_CLIMBS = 32  # before the first crossover
POPULATION, DISTANCE = 28, 0.13  # local optima that are crossed, and the share of the genes in which they differ
ABANDON = 1.0
PATIENCE = 240
MOVES, LARGEST, BEAM = 12, 4, 12  # the moves that jumps combine, how many in one jump, and the sets kept of each size
JUMPS, PROPOSALS = 12, 4  # jumps that are estimated, and those proposed
COUNTERS = ("best", "ended", "ended_at_best", "begun")  # of a saved state


class Memetic:
    """Climbs from random architectures and from crossovers of the local optima.

    own_predictions: what the estimates were worth.
    """

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        self._space, self._moves = problem.tables.space, problem.region.moves
        self._units = _units(self._space)
        self._estimator = Estimator(problem)
        self._together = CLIMBS if self._estimator.cost <= 1 else 1
        self._gene_starts = np.flatnonzero(np.diff(self._moves.gene, prepend=-1))
        sets, values = self._moves.sets, self._moves.values
        self._sets, self._set_to = (np.concatenate([array, array[:1] * 0]) for array in (sets, values))  # and no move
        self._independent = self._moves.independent | self._moves.independent.T
        self._scores: dict[bytes, tuple[float, float]] = {}  # accuracy and fitness of every genome
        none = np.zeros((0, self._space.num_genes), np.int8)
        # N climbs: where they stand, the fitness there, and (N, K, G) what they propose.
        self._genomes, self._fitness = none, np.zeros(0)
        self._candidates = none[:, None]
        self._population = none  # the fittest first
        self._best = -np.inf
        self._begun = self._ended = self._ended_at_best = 0  # climbs; `ended` when the best was found
        self._visited: set[bytes] = set()  # where climbs have stood
        self.own_predictions = 0

    @property
    def own_predictions_per_ask(self) -> int:
        """What the estimates around one architecture of each climb are worth."""
        return self._most_climbs * self._estimator.cost

    @property
    def _most_climbs(self) -> int:
        return min(self._together, 1 + 2 * (self._ended + len(self._genomes)))

    @property
    def agrees(self) -> bool:
        """Whether restarts agree on the best architecture. Climbs one at a time are too few to say so."""
        return self._together > 1 and self._ended - self._ended_at_best >= PATIENCE

    def ask(self) -> Genomes:
        """(N, G) what the climbs propose next."""
        self._advance()
        self._begin()
        if not len(self._genomes):
            self._candidates = self._genomes[:, None]
            return self._genomes
        self._candidates = np.concatenate([self._genomes[:, None], self._jumps()], axis=1)
        genomes = self._candidates.reshape(-1, self._space.num_genes)
        genomes = genomes[self._region.contains(genomes)]
        return genomes[[key not in self._scores for key in row_keys(genomes)]]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Remember the scores, which the climbs look up."""
        pairs = zip(scores.accuracy.tolist(), scores.fitness.tolist(), strict=True)
        self._scores.update(zip(row_keys(genomes), pairs, strict=True))
        if (top := float(scores.fitness.max())) > self._best:
            self._best, self._ended_at_best = top, self._ended

    # Where climbs start, and what becomes of local optima.

    def _begin(self) -> None:
        """Begin climbs in place of those that have ended, where none has been."""
        count = self._most_climbs - len(self._genomes)
        if not count:
            return
        is_random = np.full(count, len(self._population) < 2) | (self._begun + np.arange(count) < RANDOM_CLIMBS)
        genomes = self._region.choices.draw(self._rng, count)
        if not self._begun and self._scores:
            fittest = max(self._scores, key=lambda key: self._scores[key][1])
            genomes[0], is_random[0] = np.frombuffer(fittest, np.int8), False
        else:
            crossed = np.flatnonzero(~is_random)
            genomes[crossed] = self._cross(len(crossed))
        self._begun += count
        genomes = self._region.repair(genomes, self._rng)
        keys = row_keys(genomes)
        is_new = [key not in self._visited and key not in keys[:row] for row, key in enumerate(keys)]
        fitness = np.array([self._scores.get(key, (0.0, -np.inf))[1] for key in keys])
        self._genomes = np.concatenate([self._genomes, genomes[is_new]])
        self._fitness = np.append(self._fitness, fitness[is_new])

    def _cross(self, count: int) -> Genomes:
        """(count, G) children of two members of the population each, perhaps outside the limits."""
        size = len(self._population)
        first = (self._rng.random(count) * size).astype(np.intp)
        second = (first + 1 + (self._rng.random(count) * (size - 1)).astype(np.intp)) % max(1, size)
        shares = self._rng.random((count, self._space.num_genes))
        by_stage = self._rng.random((count, 1)) < 0.5
        from_first = np.where(by_stage, shares[:, self._units], shares) < 0.5
        parents = self._population
        return np.where(from_first, parents[first], parents[second])

    def _advance(self) -> None:
        """Move every climb to the best of its candidates, and end those that this leads nowhere."""
        count, per_climb, _ = self._candidates.shape
        if not count:
            return
        rows = np.arange(count)
        keys = row_keys(self._candidates.reshape(count * per_climb, -1))
        fitness = np.array([self._scores.get(key, (0.0, -np.inf))[1] for key in keys]).reshape(count, per_climb)
        best = fitness.argmax(1)
        after, before = fitness[rows, best], self._fitness
        is_optimum = (best == 0) | (after <= before)
        for row in np.flatnonzero(is_optimum & np.isfinite(after)):
            self._admit(self._genomes[row])
        ahead = [keys[row * per_climb + best[row]] for row in rows]
        is_known = np.array([key in self._visited or key in ahead[:row] for row, key in enumerate(ahead)])
        goes_on = ~is_optimum & ~is_known
        genomes = self._candidates[rows, best]
        if len(self._population) == POPULATION:
            known = np.flatnonzero(goes_on & np.isfinite(before))
            hope = after[known] + ABANDON * (after[known] - before[known])
            goes_on[known] = hope >= self._fitness_of_population()[-1]
        self._ended += int((~goes_on).sum())
        self._genomes = genomes[goes_on]
        self._fitness = after[goes_on]

    def _admit(self, genome: Genomes) -> None:
        """Take a local optimum into the population in place of those near it, unless one of these is as fit."""
        near = (self._population != genome).sum(1) < DISTANCE * len(genome)
        fitness, new = self._fitness_of_population(), self._scores[genome.tobytes()][1]
        if (fitness[near] >= new).any():
            return
        members = np.concatenate([self._population[~near], genome[None]])
        members = members[np.argsort(-np.append(fitness[~near], new), kind="stable")]
        self._population = members[:POPULATION]

    def _fitness_of_population(self) -> Floats:
        return np.array([self._scores[key][1] for key in row_keys(self._population)])

    # The jumps of one step.

    def _jumps(self) -> Genomes:
        """(N, K, G) the most promising jumps of N climbs; the climb's own genome where there are fewer."""
        self._visited.update(row_keys(self._genomes))
        possible, uses, saved = self._effects()
        around = self._estimator.around(self._genomes, possible)
        self.own_predictions += around.predictions
        spare = self._spare(around.accuracy)
        values, used = self._knapsack(np.where(possible, around.gains, -np.inf), uses, saved, spare)
        room = self._region.maxima - self._region.costs(self._genomes)
        if used.shape[2] > room.shape[1]:
            room = np.column_stack([room, np.maximum(spare, 0)])
        items = Items(values, used, room, find_prices(values, used, room, self._gene_starts))

        rows, top = np.arange(len(possible))[:, None], greatest_of_rows(items.worth, MOVES)
        responses = around.responses(top)
        gains = np.where(possible[rows, top], around.total(responses), -np.inf)
        values, used = self._knapsack(gains, uses[rows, top], saved[rows, top], spare)
        items = Items(values, used, room, items.prices)
        order = np.argsort(-items.worth, axis=1, kind="stable")
        top, responses = top[rows, order], responses[rows, order]
        items = Items(values[rows, order], used[rows, order], room, items.prices)
        independent = self._independent[top[:, :, None], top[:, None]]
        sets, totals = find_jumps(items, independent, LARGEST, BEAM, JUMPS)

        is_in = np.zeros((*sets.shape[:2], top.shape[1] + 1), np.float32)  # whether a move is in a set, and no move
        np.put_along_axis(is_in, sets, 1, axis=2)
        is_in = is_in[:, :, :-1]
        accuracy = around.accuracy[:, None] + around.total(np.matmul(is_in, responses))
        price = -np.matmul(is_in, saved[rows, top][:, :, None])[:, :, 0]
        if (minimise := self._problem.minimise) is not None:
            price += minimise(self._genomes)[:, None]
        value = self._problem.value(accuracy.ravel(), price.ravel()).reshape(accuracy.shape)
        best = greatest_of_rows(np.where(np.isfinite(totals), value, -np.inf), PROPOSALS)
        return self._apply(np.where(np.isfinite(totals)[rows, best, None], sets[rows, best], top.shape[1]), top)

    def _apply(self, sets: NDArray[np.intp], top: NDArray[np.intp]) -> Genomes:
        """(N, K, G) the genomes of the climbs after sets (N, K, s) of their moves `top`, (N, m)."""
        top = np.concatenate([top, np.full((len(top), 1), len(self._moves))], axis=1)
        genomes = self._genomes[:, None]
        for column in range(sets.shape[2]):
            move = np.take_along_axis(top, sets[:, :, column], axis=1)
            genomes = np.where(self._sets[move], self._set_to[move], genomes)
        return genomes

    def _effects(self) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """(N, M) whether N climbs can make each move, (N, M, L) what it adds to the limited costs, and (N, M) saves."""
        genomes, moves, minimise = self._genomes, self._moves, self._problem.minimise
        possible = moves.applicable(genomes)
        rows, columns = np.nonzero(possible)
        after = moves.apply(genomes[rows], columns)
        changes = self._region.costs(after) - self._region.costs(genomes)[rows]
        known = np.isfinite(changes).all(1) & self._region.allowed[after[:, 0]]
        possible[rows, columns] = known
        uses = np.zeros((*possible.shape, changes.shape[1]))
        uses[rows[known], columns[known]] = changes[known]
        saved = np.zeros(possible.shape)
        if minimise is not None:
            saved[rows[known], columns[known]] = (minimise(genomes)[rows] - minimise(after))[known]
        return possible, uses, saved

    def _spare(self, predicted: Floats) -> Floats:
        """(N,) by how much climbs exceed the required accuracy; negative where they are below it."""
        scored = [
            self._scores.get(key, (value,))[0] for key, value in zip(row_keys(self._genomes), predicted, strict=True)
        ]
        return np.array(scored) - (self._problem.min_accuracy or 0.0)

    def _knapsack(self, gains: Floats, uses: Floats, saved: Floats, spare: Floats) -> tuple[Floats, Floats]:
        """(N, m) the values of moves, -inf where a gain is, and (N, m, L) what they use.

        If a cost is minimised and the required accuracy is reached, the values are the cost saved, and accuracy is one
        more resource.
        """
        if self._problem.minimise is None:
            return gains, uses
        can_save = (spare >= 0)[:, None] & np.isfinite(gains)
        lost = np.where(can_save, -gains, 0)
        return np.where(can_save, saved, gains), np.concatenate([uses, lost[:, :, None]], axis=2)

    # State.

    def state(self) -> dict[str, NDArray[Any]]:
        """Every score, the climbs, the population and the counters."""
        num_genes = self._space.num_genes
        return {
            "scored": np.frombuffer(b"".join(self._scores), np.int8).reshape(-1, num_genes),
            "scores": np.array(list(self._scores.values())).reshape(-1, 2),
            "genomes": self._genomes,
            "fitness": self._fitness,
            "candidates": self._candidates,
            "visited": np.frombuffer(b"".join(sorted(self._visited)), np.int8).reshape(-1, num_genes),
            "population": self._population,
            "own_predictions": np.array(self.own_predictions),
            **{name: np.array(getattr(self, f"_{name}")) for name in COUNTERS},
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        pairs = map(tuple, state["scores"].tolist())
        self._scores = dict(zip(row_keys(np.asarray(state["scored"])), pairs, strict=True))
        for name in ("genomes", "fitness", "candidates", "population"):
            setattr(self, f"_{name}", np.asarray(state[name]))
        self._visited = set(row_keys(np.asarray(state["visited"])))
        self.own_predictions = state["own_predictions"].item()
        for name in COUNTERS:
            setattr(self, f"_{name}", state[name].item())


def _units(space: SearchSpace) -> NDArray[np.intp]:
    """(G,) a gene that stands for each gene's unit of crossover: the depth gene for a stage's genes, else the gene."""
    units = np.arange(space.num_genes)
    for stage, depths in enumerate(space.depths):
        units[space.gene_of_block(stage, 0) : space.gene_of_block(stage, depths[-1])] = space.depth_gene(stage)
    return units
