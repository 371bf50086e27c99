"""Strategies against the true optimum: `python -m benchmarks.strategies BUNDLE`.

BUNDLE: of a space small enough to enumerate, such as `supple train configs/digits.yaml` makes (2,187,000 subnets).
Every subnet is predicted once, which gives the best within any limit. Then all strategies search under limits on FLOPs
at equal evaluations, by themselves and as `supple search` ends, with the local search.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from evolution.comparison import Comparison, run_strategies
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem
from evolution.search import STRATEGIES
from supernet.bundle import Bundle
from supernet.space import Genomes, SearchSpace

QUANTILES = (0.01, 0.1, 0.5)  # of the FLOPs of all subnets, as limits
FOUND = 1e-6  # of accuracy: predictions of one subnet differ by rounding, with the batch that it is in


def everything(space: SearchSpace) -> Iterator[Genomes]:
    """Every canonical genome once: per resolution and depths, the genes of the kept blocks."""
    first = space.depth_gene(len(space.depths))  # the genes before it have no block
    for head in product(*(range(n) for n in space.num_choices[:first])):
        genome = np.zeros((1, space.num_genes), np.int8)
        genome[0, :first] = head
        living = np.flatnonzero(space.alive(genome)[0, first:]) + first
        count = int(np.prod(space.num_choices[living]))
        genomes = np.repeat(genome, count, axis=0)
        genomes[:, living] = np.stack(np.unravel_index(np.arange(count), space.num_choices[living]), axis=1)
        yield genomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    assert bundle.predictor_path is not None
    tables, predictor = CostTables(bundle.space), AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    batches = [(tables.flops(genomes), predictor.predict(genomes)) for genomes in everything(bundle.space)]
    flops, accuracy = (np.concatenate(values) for values in zip(*batches, strict=True))
    print(f"{len(flops):,} subnets of {bundle.space.name}; {options.budget:,} evaluations, {options.seeds} seeds")
    for quantile in QUANTILES:
        limit = float(np.quantile(flops, quantile))
        optimum = float(accuracy[flops <= limit].max())
        problem = Problem(tables, predictor, constrain([Limit("flops", limit)], tables, {}))
        for local_search in (False, True):
            end = "with" if local_search else "without"
            print(f"at most {limit:,.0f} FLOPs, {(flops <= limit).sum():,} subnets; {end} the local search")
            settings = {"evaluations": options.budget, "seeds": options.seeds}
            done = run_strategies(problem, sorted(STRATEGIES), local_search=local_search, **settings)
            for summary in Comparison.from_runs(done, optimum).summaries:
                found = sum(value >= optimum - FOUND for value in summary.accuracies)
                p_value = "" if summary.p_value is None else f", p {summary.p_value:.1e}"
                print(
                    f"  {summary.strategy:<12} regret {max(0, summary.regret):.1e}, optimum found {found} of "
                    f"{options.seeds}{p_value}, {summary.evaluations:,.0f} evaluations, {summary.seconds:.2f} s"
                )


if __name__ == "__main__":
    main()
