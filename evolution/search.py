"""The search for the best architecture within hard limits: the strategies there are, and the driver.

The driver owns the number of evaluations, the random generator and everything evaluated; a strategy only proposes.

1. Seed: score the warm start, the largest architecture at each resolution, and the anchors. A strategy that proves its
   answers is asked first, so that its answer is scored however few evaluations there are.
2. Explore: ask the strategy, move its proposals inside the limits, score the new ones, tell the strategy. So every
   architecture that is ever evaluated is within the limits. This ends when the strategy's restarts agree, when it has
   nothing left to propose, or at the number of evaluations.
3. Polish: spend the last evaluations on a local search, which ends when no move or pair of moves within the limits
   improves the best. An answer that is proven optimal needs none.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats, row_keys
from evolution.pareto import ParetoFront, hypervolumes
from evolution.problem import Problem, Scores
from evolution.strategies import Optimality, ProvingStrategy, RestartingStrategy, SearchStrategy, State
from evolution.strategies.exact import find_obstacle
from supernet.space import Genomes, SearchSpace

EVALUATIONS = 6_000  # unless a request says otherwise
SELF_ENDING = {"evolution": 25_000}  # the same of strategies that mostly end by themselves before
FINALISTS = 200
POLISH_SHARE, MAX_POLISH = 0.15, 6_000  # of the evaluations, reserved for the local search, and at most so many
PAIRS = 1_024  # pairs of moves scored at once, before a better one is followed
NEXT_BEST = 256  # architectures whose neighbours are scored when the strategy has nothing left to propose
RECENT = 1_000
STALE_GENERATIONS = 5  # in a row without a new architecture; then the strategy has nothing left to propose
Phase = Literal["seed", "explore", "polish", "done"]
Ending = Literal["agreed", "proven", "exhausted", "evaluations", "seconds"]
STRATEGIES: Mapping[str, str] = {  # module and class; loaded on demand, since some need torch
    "evolution": "evolution.strategies.memetic:Memetic",
    "exact": "evolution.strategies.exact:Exact",
    "gumbel": "evolution.strategies.gumbel:Gumbel",
    "gumbel-soft": "evolution.strategies.gumbel:SoftGumbel",
    "nsga2": "evolution.strategies.nsga2:NSGA2",
    "random": "evolution.strategies.random:RandomSearch",
    "reinforce": "evolution.strategies.reinforce:Reinforce",
}


def default_strategy(problem: Problem) -> str:
    """`exact` where that can prove its answer, else `nsga2` for a front and `evolution` for a single architecture."""
    if find_obstacle(problem) is None:
        return "exact"
    return "nsga2" if problem.pareto else "evolution"


def default_evaluations(strategy: str) -> int:
    """The largest number of evaluations of a search with this strategy, unless a request says otherwise."""
    return SELF_ENDING.get(strategy, EVALUATIONS)


def make_strategy(name: str, problem: Problem, rng: np.random.Generator) -> SearchStrategy:
    """Make a strategy for a problem. name: a key of `STRATEGIES`.

    Raises:
        ValueError: there is no such strategy, or it cannot search this problem. ImportError: it needs a package that is
            not installed.
    """
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}; there are {', '.join(sorted(STRATEGIES))}")
    module, attribute = STRATEGIES[name].split(":")
    make: Callable[[Problem, np.random.Generator], SearchStrategy] = getattr(import_module(module), attribute)
    return make(problem, rng)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands.

    generation: batches evaluated so far. evaluations: made so far, of at most `max_evaluations`. best: (G,).
    accuracy: of `best`, as in `Scores`.
    """

    phase: Phase
    generation: int
    evaluations: int
    max_evaluations: int
    best: Genomes
    accuracy: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Scored architectures. genomes: (N, G). accuracy: (N,) as in `Scores`. costs: (N, C). names: (C,) of the costs."""

    genomes: Genomes
    accuracy: Floats
    costs: Floats
    names: tuple[str, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.genomes)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer of a search.

    best: (G,) the best genome. costs: its costs by name.
    reached: whether `best` has the requested accuracy. If not, `best` is the most accurate architecture
        found; that does not prove that no architecture has the requested accuracy.
    front: of everything evaluated. finalists: at most 200, best first. evaluated: everything, in order.
    strategy: its name. optimality: how good `best` is beside the best that could be; None if nothing is proven.
    two_opt: whether no architecture within the limits and one or two moves of `best` is better: all were evaluated, or
        `best` is proven optimal. two_opt_evaluations: made by the local search.
    gained_last_1000: by how much the last 1,000 evaluations raised the best accuracy, or lowered the minimised cost.
        None if there were no earlier evaluations, or if those did not reach the requested accuracy.
    ended_by: `agreed`: restarts of the strategy agree on the best. `proven`: the best is proven optimal. `exhausted`:
        the strategy had nothing left to propose. `evaluations`, `seconds`: the most allowed were spent, so that a
        longer search may find a better one. None if the search goes on.
    hypervolume: (generations,) of the front after each generation, up to the problem's `reference`; empty unless a
        front is searched for.
    """

    best: Genomes
    reached: bool
    accuracy: float
    costs: Mapping[str, float]
    front: ParetoFront
    finalists: Evaluated
    evaluated: Evaluated
    evaluations: int
    generations: int
    seed: int
    strategy: str
    optimality: Optimality | None
    two_opt: bool
    two_opt_evaluations: int
    gained_last_1000: float | None
    ended_by: Ending | None
    hypervolume: Floats


class Search:
    """One search. Iterate over `run()`, save `state()` between its steps, and take the `result()` at any time.

    strategy: a key of `STRATEGIES`; by default that of `default_strategy`.
    evaluations: the largest number of predictions, including the strategy's own; of measurements, if the problem
        measures accuracy. None: `default_evaluations`.
    seconds: the search ends after the step in which its steps have taken so long. None: no such limit.
    warm_start: (N, G) genomes to score first. polish: end with the local search, unless a front is searched for.
    The same arguments give the same answer, unless `seconds` ended the search.

    Raises:
        Infeasible, NotProven: from `find_region`. ValueError: an unknown strategy or resolution, fewer than one
            evaluation, seconds that are not positive, or a warm start of another space.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        strategy: str | None = None,
        evaluations: int | None = None,
        seconds: float | None = None,
        seed: int = 0,
        warm_start: Genomes | None = None,
        polish: bool = True,
    ) -> None:
        if evaluations is not None and evaluations < 1:
            raise ValueError(f"evaluations is {evaluations}; at least 1 is needed")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds is {seconds}; a positive number is needed")
        self._strategy_name = default_strategy(problem) if strategy is None else strategy
        self.problem, self.seed = problem, seed
        self.max_evaluations = evaluations or default_evaluations(self._strategy_name)
        self.max_seconds, self._seconds = seconds, 0.0
        self._ended_by: Ending | None = None
        self._region = problem.region
        self._polish = polish and not problem.pareto
        self._rng = np.random.default_rng(seed)
        self._strategy = make_strategy(self._strategy_name, problem, self._rng)
        self._restarts = isinstance(self._strategy, RestartingStrategy)  # slow to find out
        self._phase: Phase = "seed"
        self._generation = self._stale = 0
        self._two_opt, self._two_opt_evaluations = False, 0
        self._warm_start = _checked(problem.tables.space, warm_start)
        self._scored_keys: set[bytes] = set()
        self._exhausted: set[bytes] = set()  # a cache: genomes whose neighbours within two moves are all scored
        self._batches: list[tuple[Genomes, Scores]] = []
        self._best: tuple[float, float, Genomes, float] | None = None  # fitness, first cost, genome, accuracy

    @property
    def evaluations(self) -> int:
        """The number of predictions made: of scored genomes, and by the strategy itself.

        If the problem measures accuracy, the number of genomes measured; the strategy's predictions then cost nothing.
        """
        return len(self._scored_keys) + (0 if self.problem.measure else self._strategy.own_predictions)

    def run(self) -> Iterator[Progress]:
        """Search to the end, one batch of evaluations per step."""
        steps = {"seed": self._seed, "explore": self._explore, "polish": self._improve}
        while self._phase != "done":
            started = time.perf_counter()
            steps[self._phase]()
            self._seconds += time.perf_counter() - started
            self._watch_the_clock()
            yield self.progress()

    def _watch_the_clock(self) -> None:
        """End the search if its steps have taken the seconds that they may."""
        if self._phase != "done" and self.max_seconds is not None and self._seconds >= self.max_seconds:
            self._phase, self._ended_by = "done", "proven" if self._is_proven else "seconds"

    def run_to_end(self, on_progress: Callable[[Progress], object] | None = None) -> SearchResult:
        """The answer, once `run` has ended. on_progress: called after each batch of evaluations."""
        for progress in self.run():
            if on_progress is not None:
                on_progress(progress)
        return self.result()

    def progress(self) -> Progress:
        """Where the search stands. Raises ValueError before the first step of `run`."""
        _, _, genome, accuracy = self._leader()
        return Progress(self._phase, self._generation, self.evaluations, self.max_evaluations, genome, accuracy)

    def _leader(self) -> tuple[float, float, Genomes, float]:
        if self._best is None:
            raise ValueError("nothing has been evaluated yet; advance `run` first")
        return self._best

    def _seed(self) -> None:
        """Score the warm start, the largest architecture at each resolution, and the anchors, all inside the limits."""
        anchors = self._region.anchors[self._region.anchored]
        largest = np.broadcast_to(self.problem.tables.space.num_choices - 1, anchors.shape).astype(np.int8)
        largest[:, 0] = anchors[:, 0]
        first = self._strategy.ask() if isinstance(self._strategy, ProvingStrategy) else anchors[:0]
        seeds = np.concatenate([first, self._warm_start, largest, anchors])
        self._evaluate(self._inside(seeds), self.max_evaluations)
        self._phase = "explore"

    def _explore(self) -> None:
        """One generation of the strategy."""
        reserve = min(int(self.max_evaluations * POLISH_SHARE), MAX_POLISH) if self._polish else 0
        end = self.max_evaluations - reserve
        own_predictions = 0 if self.problem.measure else self._strategy.own_predictions_per_ask
        if self.evaluations + own_predictions >= end:
            self._ended_by = "evaluations"
        elif self._stale >= STALE_GENERATIONS:
            self._ended_by = "exhausted"
        elif self._restarts and cast(RestartingStrategy, self._strategy).agrees:
            self._ended_by = "agreed"
        if self._ended_by is not None:
            if self._is_proven:
                self._ended_by = "proven"
            self._phase = "polish" if self._polish and self._ended_by != "proven" else "done"
            return
        fresh = self._inside(self._strategy.ask())
        self._evaluate(fresh, end - self.evaluations)
        self._stale = 0 if len(fresh) else self._stale + 1

    @property
    def _optimality(self) -> Optimality | None:
        """The certificate of what was evaluated so far; None without a proof."""
        if not isinstance(self._strategy, ProvingStrategy):
            return None
        evaluated, fitness = self._evaluated()
        return self._strategy.certify(Scores(fitness, evaluated.accuracy, evaluated.costs))

    @property
    def _is_proven(self) -> bool:
        """Whether the best so far is proven optimal."""
        return (optimality := self._optimality) is not None and optimality.proven

    def _improve(self) -> None:
        """Score some architectures one move from the best, then some two moves from it; end when none is left.

        If the strategy had nothing left to propose, the limits leave little room, or several regions that are far from
        each other. Then the neighbours of the next best architectures are scored too.
        """
        best, moves, before = self._leader()[2], self._region.moves, self.evaluations
        fresh = self._fresh_within(moves.neighbours(best))
        if not len(fresh):
            fresh = self._fresh_within(moves.within_two(best))
        self._two_opt = not len(fresh)
        if self._two_opt and self._stale >= STALE_GENERATIONS and before < self.max_evaluations:
            fresh = self._fresh_near_the_next_best()
        self._evaluate(fresh[:PAIRS], self.max_evaluations - before)
        self._two_opt_evaluations += self.evaluations - before
        if not len(fresh):
            self._phase = "done"
        elif before >= self.max_evaluations:
            self._phase, self._ended_by = "done", "evaluations"

    def _fresh_near_the_next_best(self) -> Genomes:
        """(M, G) new genomes within two moves of the fittest genome that has any, among the fittest `NEXT_BEST`."""
        evaluated, fitness = self._evaluated()
        for row in np.argsort(-fitness, kind="stable")[:NEXT_BEST]:
            key = evaluated.genomes[row].tobytes()
            if key not in self._exhausted:
                fresh = self._fresh_within(self._region.moves.within_two(evaluated.genomes[row]))
                if len(fresh):
                    return fresh
                self._exhausted.add(key)
        return evaluated.genomes[:0]

    def _fresh_within(self, genomes: Genomes) -> Genomes:
        """(M, G) the genomes among (N, G) that are within the limits and not scored yet."""
        return self._fresh(genomes[self._region.contains(genomes)])

    def _inside(self, genomes: Genomes) -> Genomes:
        """(M, G) genomes moved inside the limits, without genomes already scored."""
        return self._fresh(self._region.repair(genomes, self._rng))

    def _fresh(self, genomes: Genomes) -> Genomes:
        """(M, G) the distinct genomes among (N, G) canonical ones that are not scored yet, in order."""
        first = {key: i for i, key in reversed(list(enumerate(row_keys(genomes)))) if key not in self._scored_keys}
        return genomes[sorted(first.values())]

    def _evaluate(self, genomes: Genomes, room: int) -> None:
        """Score the first `room` of (N, G) fresh genomes within the limits."""
        genomes = genomes[: max(0, room)]
        if not len(genomes):
            return
        scores = self.problem.score(genomes)
        self._remember(genomes, scores)
        self._generation += 1
        self._strategy.tell(genomes, scores)

    def _remember(self, genomes: Genomes, scores: Scores) -> None:
        self._scored_keys.update(row_keys(genomes))
        self._batches.append((genomes, scores))
        top = int(np.lexsort((scores.costs[:, 0], -scores.fitness))[0])
        rank = (float(scores.fitness[top]), -float(scores.costs[top, 0]))
        if self._best is None or rank > self._best[:2]:
            self._best = (*rank, genomes[top].copy(), float(scores.accuracy[top]))

    # State and result.

    @property
    def _ends(self) -> NDArray[np.intp]:
        """(generations,) the number of genomes scored after each generation."""
        return np.cumsum([len(genomes) for genomes, _ in self._batches])

    def _evaluated(self) -> tuple[Evaluated, Floats]:
        """Everything scored, in order, and its fitness."""
        genomes = np.concatenate([genomes for genomes, _ in self._batches])
        accuracy = np.concatenate([scores.accuracy for _, scores in self._batches])
        costs = np.concatenate([scores.costs for _, scores in self._batches])
        return Evaluated(genomes, accuracy, costs, self.problem.cost_names), self.problem.fitness(accuracy, costs)

    def state(self) -> dict[str, NDArray[Any]]:
        """The whole search as arrays without objects, for `numpy.savez`. Raises what `progress` does."""
        self._leader()
        evaluated, _ = self._evaluated()
        meta = {
            "space": self.problem.tables.space.hash,
            "costs": self.problem.cost_names,
            "strategy": self._strategy_name,
            "evaluations": self.max_evaluations,
            "seconds": self.max_seconds,
            "seconds_spent": self._seconds,
            "ended_by": self._ended_by,
            "seed": self.seed,
            "polish": self._polish,
            "phase": self._phase,
            "generation": self._generation,
            "stale": self._stale,
            "two_opt": self._two_opt,
            "two_opt_evaluations": self._two_opt_evaluations,
            "rng": self._rng.bit_generator.state,
        }
        strategy = {f"strategy.{name}": value for name, value in self._strategy.state().items()}
        scored: dict[str, NDArray[Any]] = {
            "genomes": evaluated.genomes,
            "accuracy": evaluated.accuracy,
            "costs": evaluated.costs,
            "ends": self._ends,
        }
        return {"meta": np.array(json.dumps(meta)), **scored, **strategy}

    @classmethod
    def resume(cls, problem: Problem, state: State) -> Self:
        """Continue a search from its `state`. It gives the answer that the uninterrupted search would have given.

        problem: the same problem.

        Raises:
            ValueError: not a state of a search, or a search over another space or other costs. Also what `Search`
                raises.
        """
        try:
            meta = json.loads(str(state["meta"]))
            same = meta["space"] == problem.tables.space.hash and tuple(meta["costs"]) == problem.cost_names
            if not same:
                raise ValueError(f"the state is of a search over {meta['costs']} in space {meta['space'][:16]}")
            arguments = {name: meta[name] for name in ("strategy", "evaluations", "seed", "polish")}
            search = cls(problem, **arguments)
            genomes, accuracy, costs = (np.asarray(state[name]) for name in ("genomes", "accuracy", "costs"))
            scored = genomes, problem.fitness(accuracy, costs), accuracy, costs
            for batch, *scores in zip(*(np.split(array, state["ends"][:-1]) for array in scored), strict=True):
                search._remember(batch, Scores(*scores))
            prefix = "strategy."
            search._strategy.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            search._phase, search._two_opt = meta["phase"], meta["two_opt"]
            search._two_opt_evaluations = meta["two_opt_evaluations"]
            search._generation, search._stale = meta["generation"], meta["stale"]
            search.max_seconds, search._seconds = meta.get("seconds"), meta.get("seconds_spent", 0.0)
            search._ended_by = meta.get("ended_by")
            search._rng.bit_generator.state = meta["rng"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a search: {error!r}") from error
        return search

    def result(self) -> SearchResult:
        """The best so far; the search's answer once `run` has ended. Raises what `progress` does."""
        self._leader()
        evaluated, fitness = self._evaluated()
        problem, names = self.problem, self.problem.cost_names
        order = np.lexsort((evaluated.costs[:, 0], -fitness))[:FINALISTS]
        finalists = Evaluated(evaluated.genomes[order], evaluated.accuracy[order], evaluated.costs[order], names)
        best, accuracy = finalists.genomes[0], float(finalists.accuracy[0])
        costs = dict(zip(names, finalists.costs[0].tolist(), strict=True))
        num_front_costs = problem.front_costs
        front_costs = evaluated.costs[:, :num_front_costs]
        objectives = np.column_stack([1 - evaluated.accuracy, front_costs])
        return SearchResult(
            best=best,
            reached=problem.min_accuracy is None or accuracy >= problem.min_accuracy,
            accuracy=accuracy,
            costs=costs,
            front=ParetoFront.from_genomes(evaluated.genomes, evaluated.accuracy, front_costs, names[:num_front_costs]),
            finalists=finalists,
            evaluated=evaluated,
            evaluations=self.evaluations,
            generations=self._generation,
            seed=self.seed,
            strategy=self._strategy_name,
            optimality=(optimality := self._optimality),
            two_opt=self._two_opt or (optimality is not None and optimality.proven),
            two_opt_evaluations=self._two_opt_evaluations,
            gained_last_1000=self._gained(fitness),
            ended_by=self._ended_by,
            hypervolume=hypervolumes(objectives, self._ends if problem.pareto else (), problem.reference),
        )

    def _gained(self, fitness: Floats) -> float | None:
        """By how much the last `RECENT` of (N,) fitnesses improved the best; None where the two cannot be compared."""
        if len(fitness) <= RECENT:
            return None
        before, after = float(fitness[:-RECENT].max()), float(fitness.max())
        minimised = self.problem.minimise
        return None if minimised and before < -minimised.ceiling else after - before


def solve(problem: Problem, **settings: Any) -> SearchResult:
    """Run a `Search` to its end. settings: keyword arguments of `Search`. Raises what `Search` raises."""
    return Search(problem, **settings).run_to_end()


def _checked(space: SearchSpace, warm_start: Genomes | None) -> Genomes:
    """(N, G) the genomes of a warm start. Raises ValueError if they are not of the space."""
    if warm_start is None:
        return np.zeros((0, space.num_genes), np.int8)
    if warm_start.ndim != 2 or warm_start.shape[1] != space.num_genes:
        raise ValueError(
            f"warm-start genomes have {space.num_genes} genes each in {space.name}, not {warm_start.shape}"
        )
    if not ((warm_start >= 0) & (warm_start < space.num_choices)).all():
        raise ValueError(f"a warm-start genome holds the index of a choice that {space.name} does not have")
    return warm_start.astype(np.int8)
