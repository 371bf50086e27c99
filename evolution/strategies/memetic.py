"""Memetic evolution: every individual climbs to a local optimum before it is crossed (P. Moscato, 1989).

Around an architecture the gains of single moves nearly add up, also where the predictor is no sum. So a climb scores
the moves of one architecture, its incumbent, and then solves a knapsack on their gains with a few moves at most. It
repeats two steps until neither finds a fitter architecture:

1. Table: score the moves. A move that breaks a limit is scored together with a second one that makes room for it. After
   the first table only the most promising moves, and those that the last jump touched, are scored again.
2. Jumps: a beam search for the sets of independent moves with the greatest sums of gains within the limits. Lagrange
   multipliers price the limited costs. The best sets of each size are scored. The next jumps make at most two moves
   more than the best of these.

The first climb starts from the fittest architecture that the driver has scored, the others of the first `RANDOM_CLIMBS`
from random ones, and later ones from crossovers of the population: the fittest local optima that are far from each
other. A child takes whole stages from either parent, because blocks of one stage interact most. A climb that would not
enter the population even if its last gain came `ABANDON` times more is abandoned.

Climbs come in rounds. When `CONVERGED` climbs in a row have left the population as it is, it becomes the archive, and a
new one starts from random climbs. Once that has converged, it is joined with the archive and converges again.

Restarts agree when `AGREEING_CLIMBS` climbs from random starts, and half of all such climbs, ended in the best
architecture, or when `AGREEING_ROUNDS` rounds brought no better one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats, row_keys
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes, SearchSpace

CLIMBS = 4  # at the same time, since large batches are predicted faster; one more for each that has ended
SAMPLE = 24  # random architectures; a climb starts from the fittest
RANDOM_CLIMBS = 8  # of each round, before its first crossover
POPULATION, DISTANCE = 12, 0.25  # local optima that are crossed, and the share of the genes in which they differ
ABANDON = 1.2
CONVERGED = 10
AGREEING_CLIMBS, AGREEING_ROUNDS = 3, 2
MEASURED, REMEASURED = 256, 72  # the most moves that a table scores, and that it scores again
MOVES, LARGEST, BEAM = 32, 6, 32  # the moves that jumps combine, how many in one jump, and the sets kept of each size
PAIRS, SETS = 24, 8  # jumps that are scored: of two moves, and of each larger number
PRICE_STEPS = 12  # of the subgradient method
MOST_STEPS = 100  # in which climbs meet nothing new; then there is nothing to propose
COUNTERS = (
    *("best", "has_improved", "is_joined", "begun", "ended", "unchanged"),
    *("random", "agreeing_climbs", "agreeing_rounds"),
)  # of a saved state


@dataclass(frozen=True, eq=False)
class _Table:
    """The n moves of an incumbent that lead to allowed resolutions and known costs, and what is scored of them.

    moves: (n,) rows of `Moves`. genomes: (n, G) after each. changes: (n, L) of the limited costs. room: (L,) left by
    the limits. alone: the moves, below n, that are scored alone. swaps, partners: the moves that are scored with a
    second one, and that one. candidates: (K, G) the genomes to score: of the moves alone, then of the swaps.
    """

    moves: NDArray[np.intp]
    genomes: Genomes
    changes: Floats
    room: Floats
    alone: NDArray[np.intp]
    swaps: NDArray[np.intp]
    partners: NDArray[np.intp]
    candidates: Genomes


@dataclass(frozen=True, eq=False)
class _Climb:
    """One local search, which waits for the scores of its candidates.

    genome: (G,) the incumbent. gains: (M,) by how much each move raised the accuracy when it was last scored; nan where
    that is not known. worth: (M,) gains minus the prices of the costs, as of the last jumps; inf where not known.
    size: the most moves of the next jump. is_random: whether it started from random architectures that were new.
    candidates: (K, G) what is scored around the incumbent. sizes: (K,) by how many moves these differ from it.
    table: whose candidates these are; None once they are jumps, too.
    """

    genome: Genomes
    gains: Floats
    worth: Floats
    size: int
    is_random: bool
    candidates: Genomes
    sizes: NDArray[np.intp]
    table: _Table | None


class Memetic:
    """Climbs from random architectures and from crossovers of the local optima."""

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        self._space, self._moves = problem.tables.space, problem.region.moves
        self._units = _units(self._space)
        self._scores: dict[bytes, tuple[float, float]] = {}  # accuracy and fitness of every genome
        self._climbs: list[_Climb] = []
        # Where climbs begin: at the fittest of (N, G) genomes; and whether these are random.
        self._starts: list[tuple[Genomes, bool]] = []
        self._population: list[Genomes] = []  # the fittest first
        self._archive: list[Genomes] = []
        self._best = -np.inf
        self._has_improved = self._is_joined = False  # in this round; whether the archive has joined the population
        self._begun = self._ended = self._unchanged = 0  # climbs: of this round; of all; since the population changed
        self._random = self._agreeing_climbs = self._agreeing_rounds = 0  # climbs from random starts; that agree

    @property
    def agrees(self) -> bool:
        """Whether restarts agree on the best architecture."""
        climbs = self._agreeing_climbs
        return (climbs >= AGREEING_CLIMBS and 2 * climbs >= self._random) or self._agreeing_rounds >= AGREEING_ROUNDS

    def ask(self) -> Genomes:
        """(N, G) what the climbs score next."""
        for _ in range(MOST_STEPS):
            self._climbs = [after for climb in self._climbs if (after := self._advance(climb))]
            for genomes, is_random in self._starts:
                self._begin(genomes, is_random)
            self._starts = self._next_starts()
            genomes = np.concatenate(
                [*(genomes for genomes, _ in self._starts), *(climb.candidates for climb in self._climbs)]
            )
            is_new = [key not in self._scores for key in row_keys(genomes)]
            if any(is_new):
                return genomes[is_new]
        return genomes[:0]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Remember the scores, which the climbs look up."""
        pairs = zip(scores.accuracy.tolist(), scores.fitness.tolist(), strict=True)
        self._scores.update(zip(row_keys(genomes), pairs, strict=True))
        if (top := float(scores.fitness.max())) > self._best:
            self._best, self._has_improved, self._agreeing_climbs = top, True, 0

    def _fitness(self, genome: Genomes) -> float:
        return self._scores[genome.tobytes()][1]

    # Where climbs start, and what becomes of local optima.

    def _next_starts(self) -> list[tuple[Genomes, bool]]:
        if self._unchanged >= CONVERGED:
            if self._climbs:
                return []  # the last climbs of a converged population end first
            self._turn()
        return [self._start() for _ in range(min(CLIMBS, 1 + self._ended) - len(self._climbs))]

    def _start(self) -> tuple[Genomes, bool]:
        """(N, G) architectures within the limits, whose fittest begins a climb, and whether they are random and new."""
        self._begun += 1
        if not self._ended and self._scores:
            fittest = max(self._scores, key=lambda key: self._scores[key][1])
            return np.frombuffer(fittest, np.int8)[None], False
        is_early = self._begun <= RANDOM_CLIMBS and not self._is_joined
        if is_early or len(self._population) < 2:
            sample = self._region.repair(self._region.choices.sample(self._rng, SAMPLE), self._rng)
            is_new = np.array([key not in self._scores for key in row_keys(sample)])
            return sample[is_new] if is_new.any() else sample, bool(is_new.any())
        first, second = self._rng.choice(len(self._population), 2, replace=False)
        from_first = self._rng.random(self._space.num_genes)[self._units] < 0.5
        child = np.where(from_first, self._population[first], self._population[second])
        return self._region.repair(child[None], self._rng), False

    def _turn(self) -> None:
        """Join a converged population with the archive; if they were joined before, a new round begins."""
        self._unchanged = 0
        if self._archive and not self._is_joined:
            self._is_joined = True
            for genome in self._archive:
                self._admit(genome)
            return
        self._agreeing_rounds = 0 if self._has_improved else self._agreeing_rounds + 1
        self._archive, self._population = self._population, []
        self._begun, self._is_joined, self._has_improved = 0, False, False

    def _admit(self, genome: Genomes) -> bool:
        """Whether a local optimum enters the population. It replaces the members near it if it is fitter than these."""
        fitness, least = self._fitness(genome), DISTANCE * len(genome)
        near = [member for member in self._population if (member != genome).sum() < least]
        if any(self._fitness(member) >= fitness for member in near):
            return False
        far = [member for member in self._population if (member != genome).sum() >= least]
        self._population = sorted([*far, genome], key=self._fitness, reverse=True)[:POPULATION]
        return any(member is genome for member in self._population)

    # One climb.

    def _begin(self, genomes: Genomes, is_random: bool) -> None:
        """Begin a climb from the fittest of (N, G) genomes, if any of them was scored."""
        if scored := [genome for genome in genomes if genome.tobytes() in self._scores]:
            gains, worth = np.full((2, len(self._moves)), [[np.nan], [np.inf]])
            self._climbs.append(self._measure(max(scored, key=self._fitness), gains, worth, LARGEST, is_random))

    def _measure(self, genome: Genomes, gains: Floats, worth: Floats, size: int, is_random: bool) -> _Climb:
        """A climb that waits for the scores of its incumbent's table."""
        table = self._table(genome, gains, worth)
        sizes = np.repeat([1, 2], [len(table.alone), len(table.swaps)])
        return _Climb(genome, gains, worth, size, is_random, table.candidates, sizes, table)

    def _advance(self, climb: _Climb) -> _Climb | None:
        """The climb after its next step, with the scores of the last one; None if it has ended."""
        if climb.table is not None:
            return self._jump(climb, climb.table)
        fitness = [self._scores.get(key, (0.0, -np.inf))[1] for key in row_keys(climb.candidates)]
        before = self._fitness(climb.genome)
        gain = max(fitness, default=-np.inf) - before
        if gain <= 0:
            self._end(climb.is_random, before >= self._best, self._admit(climb.genome))
            return None
        if len(self._population) == POPULATION:
            hope = before + (1 + ABANDON) * gain
            if hope < self._fitness(self._population[-1]):
                self._end(climb.is_random, is_best=False, is_admitted=False)
                return None
        row = int(np.argmax(fitness))
        genome, size = climb.candidates[row], int(np.clip(climb.sizes[row] + 2, 3, LARGEST))
        touched = self._moves.sets[:, genome != climb.genome].any(1)
        gains, worth = np.where(touched, np.nan, climb.gains), np.where(touched, np.inf, climb.worth)
        return self._measure(genome, gains, worth, size, climb.is_random)

    def _end(self, is_random: bool, is_best: bool, is_admitted: bool) -> None:
        self._ended += 1
        self._random += is_random
        self._agreeing_climbs += is_random and is_best
        self._unchanged = 0 if is_admitted else self._unchanged + 1

    def _table(self, genome: Genomes, gains: Floats, worth: Floats) -> _Table:
        """What to score around a (G,) genome. gains, worth: as in `_Climb`."""
        moves = np.flatnonzero(self._moves.applicable(genome[None])[0])
        genomes = self._moves.apply(genome, moves)
        costs = self._region.costs(np.concatenate([genomes, genome[None]]))
        changes, room = costs[:-1] - costs[-1], self._region.maxima - costs[-1]
        usable = np.isfinite(changes).all(1) & self._region.allowed[genomes[:, 0]]
        moves, genomes, changes = moves[usable], genomes[usable], changes[usable]
        num_unknown = int(np.isinf(worth[moves]).sum())
        is_scored = np.zeros(len(moves), bool)
        is_scored[greatest(worth[moves], max(REMEASURED, min(MEASURED, num_unknown)))] = True
        is_within = (changes <= room).all(1)
        within, alone, swaps = (np.flatnonzero(m) for m in (is_within, is_scored & is_within, is_scored & ~is_within))
        fits = self._independent(moves[swaps], moves[within])
        for change, left in zip(changes.T, room, strict=True):
            fits &= change[swaps, None] + change[within] <= left
        # The second move of a swap loses least as far as is known; else it changes the costs least.
        scale = np.abs(changes).max(0, initial=0)
        known = gains[moves[within]]
        preference = np.where(np.isnan(known), -1 - np.abs(changes[within] / np.where(scale, scale, 1)).sum(1), known)
        possible = fits.any(1)
        partners = within[np.where(fits[possible], preference, -np.inf).argmax(1)] if possible.any() else swaps[:0]
        swaps = swaps[possible]
        swapped = self._moves.apply(genomes[swaps], moves[partners])
        inside = self._region.contains(swapped)
        swaps, partners = swaps[inside], partners[inside]
        alone = np.union1d(alone, partners)
        return _Table(
            moves, genomes, changes, room, alone, swaps, partners, np.concatenate([genomes[alone], swapped[inside]])
        )

    def _independent(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(n, m) whether moves (n,) and moves (m,) set different genes."""
        sets = self._moves.sets
        independent: NDArray[np.bool_] = sets[first].astype(np.float32) @ sets[second].T.astype(np.float32) == 0
        return independent

    def _jump(self, climb: _Climb, table: _Table) -> _Climb:
        """The climb after the scores of a table, waiting for those of the jumps that follow from them."""
        accuracy = np.array([self._scores.get(key, (np.nan,))[0] for key in row_keys(table.candidates)])
        measured, alone = accuracy - self._scores[climb.genome.tobytes()][0], len(table.alone)
        gains = climb.gains.copy()
        gains[table.moves[table.alone]] = measured[:alone]
        gains[table.moves[table.swaps]] = measured[alone:] - gains[table.moves[table.partners]]
        values, changes, room = self._knapsack(climb.genome, table, gains[table.moves])
        known = np.flatnonzero(np.isfinite(values))
        moves, values, changes = table.moves[known], values[known], changes[known]
        worth = values - changes @ self._prices(moves, values, changes, room)
        all_worth = climb.worth.copy()
        all_worth[moves] = worth
        best = greatest(worth, MOVES)
        sets = self._beam(moves[best], values[best], changes[best], worth[best], room, climb.size)
        jumps = [climb.genome[None][:0]]
        for rows in sets:
            genomes = np.repeat(climb.genome[None], len(rows), axis=0)
            for column in rows.T:
                genomes = self._moves.apply(genomes, moves[best][column])
            jumps.append(genomes)
        genomes = np.concatenate(jumps)
        inside = self._region.contains(genomes)
        sizes = np.repeat([rows.shape[1] for rows in sets], [len(rows) for rows in sets]).astype(np.intp)
        return replace(
            climb,
            gains=gains,
            worth=all_worth,
            candidates=np.concatenate([table.candidates, genomes[inside]]),
            sizes=np.concatenate([climb.sizes, sizes[inside]]),
            table=None,
        )

    def _knapsack(self, genome: Genomes, table: _Table, gains: Floats) -> tuple[Floats, Floats, Floats]:
        """What a jump from a (G,) genome maximises: (n,) values of the moves, (n, L) what they use, and (L,) the room.

        If a cost is minimised and the required accuracy is reached, these are the cost saved, and accuracy above the
        required one is one more resource.
        """
        problem, accuracy = self._problem, self._scores[genome.tobytes()][0]
        if problem.minimise is None or problem.min_accuracy is None or accuracy < problem.min_accuracy:
            return gains, table.changes, table.room
        saved = problem.minimise(genome[None]) - problem.minimise(table.genomes)
        spare = accuracy - problem.min_accuracy
        values = np.where(np.isnan(gains), np.nan, saved)
        return values, np.column_stack([table.changes, -gains]), np.append(table.room, spare)

    def _prices(self, moves: NDArray[np.intp], values: Floats, changes: Floats, room: Floats) -> Floats:
        """(L,) Lagrange multipliers of the costs, by subgradient steps on the bound of the knapsack of moves (n,).

        The bound takes the best move of each gene. It is the relaxation in `evolution.knapsack`, of moves.
        """
        if not len(room) or not len(moves):
            return np.zeros(len(room))
        order = np.argsort(self._moves.gene[moves], kind="stable")
        starts = np.flatnonzero(np.diff(self._moves.gene[moves][order], prepend=-1))
        groups = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
        scale = np.abs(changes).max(0)
        scale[scale == 0] = 1
        used, left, values = (changes / scale)[order], room / scale, values[order]
        prices = best = np.zeros(len(room))
        lowest = np.inf
        for step in range(1, PRICE_STEPS + 1):
            reduced = values - used @ prices
            top = np.maximum(np.maximum.reduceat(reduced, starts), 0)
            bound = float(top.sum() + prices @ left)
            if bound < lowest:
                lowest, best = bound, prices
            slack = left - used[(reduced == top[groups]) & (reduced > 0)].sum(0)
            if not slack.any():
                break
            prices = np.maximum(0, prices - 0.5 / step * bound * slack / (slack @ slack))
        scaled: Floats = best / scale
        return scaled

    def _beam(
        self,
        moves: NDArray[np.intp],
        values: Floats,
        changes: Floats,
        worth: Floats,
        room: Floats,
        largest: int,
    ) -> list[NDArray[np.intp]]:
        """The sets of moves to score, as rows (K, size) of moves (n,), for each size from 2 to `largest`.

        Moves are in order of their worth, and a set is extended by later moves alone, so that each is met once. The
        `BEAM` sets of greatest worth are extended; those of greatest value within the room are returned.
        """
        later = np.triu(self._independent(moves, moves), 1)
        sets, free = np.arange(len(moves))[:, None], later
        total_value, total_worth, total = values, worth, changes
        result = []
        for size in range(2, largest + 1):
            used = total[:, None] + changes
            value, priced = total_value[:, None] + values, total_worth[:, None] + worth
            fits = free & (used <= room).all(2)
            rows, columns = _greatest_of(value, fits, PAIRS if size == 2 else SETS)
            result.append(np.column_stack([sets[rows], columns]))
            rows, columns = _greatest_of(priced, free, BEAM)
            sets, free = np.column_stack([sets[rows], columns]), free[rows] & later[columns]
            total_value, total_worth, total = value[rows, columns], priced[rows, columns], used[rows, columns]
        return result

    # State.

    def state(self) -> dict[str, NDArray[Any]]:
        """Every score, the climbs, the starts, the population, the archive and the counters."""
        climbs, num_genes = self._climbs, self._space.num_genes
        none, moves = np.zeros((0, num_genes), np.int8), len(self._moves)
        counters = {name: getattr(self, f"_{name}") for name in COUNTERS}
        return {
            "scored": np.frombuffer(b"".join(self._scores), np.int8).reshape(-1, num_genes),
            "scores": np.array(list(self._scores.values())).reshape(-1, 2),
            "starts": np.concatenate([none, *(genomes for genomes, _ in self._starts)]),
            "start_numbers": np.array([(len(genomes), flag) for genomes, flag in self._starts], np.int64).reshape(
                -1, 2
            ),
            "population": np.array(self._population, np.int8).reshape(-1, num_genes),
            "archive": np.array(self._archive, np.int8).reshape(-1, num_genes),
            "climbs": np.array([climb.genome for climb in climbs], np.int8).reshape(-1, num_genes),
            "gains": np.array([climb.gains for climb in climbs]).reshape(-1, moves),
            "worth": np.array([climb.worth for climb in climbs]).reshape(-1, moves),
            "climb_numbers": np.array(
                [(climb.size, climb.is_random, climb.table is not None, len(climb.candidates)) for climb in climbs],
                np.int64,
            ).reshape(-1, 4),
            "candidates": np.concatenate([none, *(climb.candidates for climb in climbs)]),
            "candidate_sizes": np.concatenate([np.zeros(0, np.intp), *(climb.sizes for climb in climbs)]),
            **{name: np.array(value) for name, value in counters.items()},
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        pairs = map(tuple, state["scores"].tolist())
        self._scores = dict(zip(row_keys(np.asarray(state["scored"])), pairs, strict=True))
        counts, flags = np.asarray(state["start_numbers"]).T
        starts = np.split(np.asarray(state["starts"]), np.cumsum(counts))[:-1]
        self._starts = list(zip(starts, flags.astype(bool).tolist(), strict=True))
        self._population, self._archive = ([*np.asarray(state[name])] for name in ("population", "archive"))
        for name in COUNTERS:
            setattr(self, f"_{name}", state[name].item())
        numbers = state["climb_numbers"].tolist()
        ends = np.cumsum([count for *_, count in numbers])[:-1].astype(np.intp)
        candidates, sizes = (np.split(np.asarray(state[name]), ends) for name in ("candidates", "candidate_sizes"))
        rows = zip(state["climbs"], state["gains"], state["worth"], numbers, candidates, sizes, strict=False)
        self._climbs = [
            self._measure(genome, gains, worth, size, bool(is_random))
            if is_table
            else _Climb(genome, gains, worth, size, bool(is_random), candidates, sizes, None)
            for genome, gains, worth, (size, is_random, is_table, _), candidates, sizes in rows
        ]


def greatest(values: Floats, count: int) -> NDArray[np.intp]:
    """The positions of the `count` greatest of (N,) values, greatest first. Of equal values the first comes first.

    A stable sort, because others break ties differently on different processors.
    """
    return np.argsort(-values, kind="stable")[:count]


def _greatest_of(values: Floats, mask: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of the `count` greatest of (N, M) values where a mask is True, as `greatest` orders them."""
    positions = np.flatnonzero(mask)
    candidates = values.ravel()[positions]
    if len(positions) > count:  # a partition is faster than a sort, and its threshold is the same everywhere
        is_great = candidates >= np.partition(candidates, -count)[-count]
        positions, candidates = positions[is_great], candidates[is_great]
    rows, columns = np.divmod(positions[greatest(candidates, count)], values.shape[1])
    return rows, columns


def _units(space: SearchSpace) -> NDArray[np.intp]:
    """(G,) a gene that stands for each gene's unit of crossover: the depth gene for a stage's genes, else the gene."""
    units = np.arange(space.num_genes)
    for stage, depths in enumerate(space.depths):
        units[space.gene_of_block(stage, 0) : space.gene_of_block(stage, depths[-1])] = space.depth_gene(stage)
    return units
