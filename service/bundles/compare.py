"""`supple compare`: every strategy on one bundle and budget."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evolution.comparison import Comparison, Run, run_strategies
from evolution.search import EVALUATIONS, STRATEGIES
from service.bundles.search import problem_of
from supernet.bundle import Bundle

POINTS = 96  # of a curve
FIRST = 0.05  # of the budget, where curves begin: what comes before would flatten the rest


def compare_bundle(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    budget: int | None,
    seeds: int,
    local_search: bool = True,
    progress: Callable[[Run, int, int], None] = lambda run, done, total: None,
) -> dict[str, Any]:
    """Compare every strategy at equal evaluations, as JSON.

    progress: called with each run, how many are done, and of how many.

    Raises:
        Infeasible (a ValueError): with each limit's floor. Also what `problem_of` raises.
    """
    budget = budget or EVALUATIONS
    problem, models = problem_of(bundle, limits, device=device, resolution=resolution, max_resolution=max_resolution)
    names, done = sorted(STRATEGIES), []
    for run in run_strategies(problem, names, evaluations=budget, seeds=seeds, local_search=local_search):
        done.append(run)
        progress(run, len(done), len(names) * seeds)
    comparison = Comparison.from_runs(done)
    best = max(done, key=lambda run: run.accuracy[-1])
    grid = np.unique(np.linspace(FIRST * budget, budget, POINTS).astype(int))
    asked = ", ".join(f"{name} at most {most:,}" for name, most in limits.items()) or "no limit"
    return {
        "title": f"{bundle.manifest['name']}{''.join(f' on {name}' for name in models)}: {asked}",
        "limits": dict(limits),
        "device": next(iter(models), None),
        "budget": budget,
        "seeds": seeds,
        "local_search": local_search,
        "best_known": {
            "predicted_accuracy": comparison.best_known,
            "strategy": best.strategy,
            "seed": best.seed,
            "arch": bundle.space.decode(best.best).to_json(),
        },
        "test": "exact one-sided Mann-Whitney U against random search",
        "strategies": [
            {
                "strategy": summary.strategy,
                "mean": summary.mean,
                "deviation": summary.deviation,
                "regret": summary.regret,
                "p_value": summary.p_value,
                "evaluations": summary.evaluations,
                "seconds": summary.seconds,
                "predicted_accuracies": list(summary.accuracies),
            }
            for summary in comparison.summaries
        ],
        "evaluations": grid.tolist(),
        "curves": {name: _quartiles(curve) for name, curve in comparison.curves(grid).items()},
    }


def _quartiles(curve: np.ndarray) -> dict[str, list[float | None]]:
    """The quartiles and the median over seeds of (S, N) curves; None where a seed has none yet."""
    low, median, high = np.quantile(curve, [0.25, 0.5, 0.75], axis=0)
    parts = {"low": low, "median": median, "high": high}
    return {name: [None if np.isnan(value) else float(value) for value in values] for name, values in parts.items()}
