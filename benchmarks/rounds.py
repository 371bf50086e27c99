"""Which pairs to fit the accuracy predictor on: `python -m benchmarks.rounds BUNDLE [--subnets 120] [--rounds 3]`.

For each seed, `supple fit`'s two ways measure equally many subnets: spread evenly over FLOPs, or a first set like that
and rounds near the front of the predictor so far. Both predictors then rank the same test subnets, and both choose the
best subnet at ten limits on FLOPs, which is then measured. The test subnets are those near the measured front of a
large set, drawn half evenly and half in rounds with another seed; none that either predictor was fitted on is among
them. What is measured stays in BUNDLE.pairs.jsonl.
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.pareto import dominance_ranks
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.fitting import KINDS, Kind
from evolution.predictors.validation import kendall_tau
from evolution.problem import Problem
from evolution.search import solve
from service.bundles.fit import measure_pairs
from service.bundles.pairs import Pairs
from supernet.bundle import Bundle
from supernet.space import Genomes
from supernet.streams import Stream, random_generator

TEST_SEED = 1_000
LIMITS = 10  # on FLOPs, at equal distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--subnets", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--test-subnets", type=int, default=1_200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = Bundle.open(options.bundle)
    tables, pairs, evaluator = CostTables(bundle.space), Pairs.of_bundle(bundle), bundle.evaluator()

    def measured(subnets: int, rounds: int, seed: int) -> Genomes:
        rng = random_generator(seed, Stream.PREDICTOR)
        return measure_pairs(bundle.space, pairs, evaluator, rng, subnets=subnets, rounds=rounds)

    test = np.concatenate([measured(options.test_subnets // 2, rounds, TEST_SEED) for rounds in (0, options.rounds)])
    test = np.unique(test, axis=0)
    ranks = dominance_ranks(np.stack([tables.flops(test), -pairs.scores(test)[1]], axis=1))
    near = test[ranks <= np.sort(ranks)[len(ranks) // 4]]
    print(f"{bundle.name}: {options.subnets} pairs, {options.rounds} rounds, {len(near)} test subnets near the front")

    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "mlp")
    results: dict[tuple[Kind, str], list[tuple[float, float, float]]] = {}
    for seed in range(options.seeds):
        fitted_on = {
            "evenly": measured(options.subnets, 0, seed),
            "in rounds": measured(options.subnets, options.rounds, seed),
        }
        seen = {genome.tobytes() for genomes in fitted_on.values() for genome in genomes}
        unseen = near[[genome.tobytes() not in seen for genome in near]]
        accuracy, log_likelihood = pairs.scores(unseen)
        for way, genomes in fitted_on.items():
            for kind in kinds:
                rng = np.random.default_rng(seed)
                predictor = AccuracyPredictor.fit(bundle.space, genomes, *pairs.scores(genomes), rng, kind)
                tau = kendall_tau(predictor.score(unseen), log_likelihood) or 0.0
                error = float(np.sqrt(np.mean((predictor.predict(unseen) - accuracy) ** 2)))
                chosen = choose_at_limits(tables, predictor, seed)
                for _ in pairs.measure(evaluator, bundle.space, chosen):
                    pass
                found = float(pairs.scores(chosen)[1].mean())
                results.setdefault((kind, way), []).append((tau, error, found))
        print(
            f"seed {seed}: " + "; ".join(f"{k} {w} tau {rows[-1][0]:.3f}" for (k, w), rows in results.items()),
            flush=True,
        )
    for (kind, way), rows in results.items():
        tau, error, found = (mean(column) for column in zip(*rows, strict=True))
        print(f"{kind:6} {way:9}  tau near the front {tau:.3f}  RMSE there {error:.2%}  chosen at limits {found:.5f}")
    for kind in kinds:
        even, rounds = (np.array(results[kind, way]) for way in ("evenly", "in rounds"))
        print(
            f"{kind:6} rounds minus evenly: {describe(rounds[:, 0] - even[:, 0], 'tau', '.3f')}; "
            f"{describe(rounds[:, 2] - even[:, 2], 'log-likelihood of what is chosen', '.5f')}"
        )


def choose_at_limits(tables: CostTables, predictor: AccuracyPredictor, seed: int) -> Genomes:
    """(LIMITS, G) the best subnets by a predictor, at equally spaced limits on FLOPs from the floor to the ceiling."""
    cost = tables.flops_cost
    limits = np.linspace(float(cost.floors.min()), cost.ceiling, LIMITS + 2)[1:-1]
    problems = (Problem(tables, predictor, constrain([Limit("flops", limit)], tables, {})) for limit in limits.tolist())
    return np.stack([solve(problem, evaluations=2_000, seed=seed).best for problem in problems])


def describe(differences: Floats, what: str, form: str) -> str:
    """The mean of differences over seeds, its standard error, and how many are positive."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    better = int((differences > 0).sum())
    return (
        f"{what} {differences.mean():+{form}} (standard error {error:{form}}, better in {better} of {len(differences)})"
    )


if __name__ == "__main__":
    main()
