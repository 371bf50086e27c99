"""Search beside Once-for-All's own finders: `python -m benchmarks.ofa_search BUNDLE DEVICE FILES REFERENCE`.

BUNDLE: as `supple import-ofa --predictor ... --latency-tables ... --device DEVICE` writes it, from the published
acc_predictor.pth and RESOLUTION_lookup_table.yaml in FILES. REFERENCE: JSON of what the tutorial's finder found with
these at each limit and of the best values known. Needs the package `ofa` (`pip install '.[benchmarks]'`).

Both finders run at their defaults (population 100, 500 generations), the tutorial's with its own predictor and tables,
the library's with the same numbers in its encoder and latency model. All run in turns in one process.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
import yaml

from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem
from evolution.search import EVALUATIONS, Search
from service.bundles.search import load_latency_model
from supernet.bundle import Bundle

RESOLUTIONS = (160, 176, 192, 208, 224)
Found = tuple[float, float]  # predicted top-1, seconds


def peers(files: Path) -> dict[str, Callable[[float], float]]:
    """The tutorial's and the library's finder: the predicted top-1 that each finds under a limit, in ms."""
    sys.modules.setdefault("gdown", types.ModuleType("gdown"))  # it downloads; nothing is downloaded here
    load = yaml.load
    yaml.load = lambda stream: load(stream, yaml.CSafeLoader)  # type: ignore[assignment, misc]
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    from ofa.nas.accuracy_predictor import AccuracyPredictor as LibraryPredictor
    from ofa.nas.accuracy_predictor import MobileNetArchEncoder
    from ofa.nas.efficiency_predictor import Mbv3LatencyModel
    from ofa.nas.search_algorithm import EvolutionFinder as LibraryFinder
    from ofa.tutorial.accuracy_predictor import AccuracyPredictor as TutorialPredictor
    from ofa.tutorial.evolution_finder import EvolutionFinder as TutorialFinder
    from ofa.tutorial.latency_table import LatencyEstimator, LatencyTable

    trained = torch.load(files / "acc_predictor.pth", map_location="cpu", weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = TutorialPredictor(pretrained=False, device="cpu")
        predictor.model.load_state_dict(trained)
        table = LatencyTable(resolutions=())
        table.latency_tables = {
            side: LatencyEstimator(url=str(files / f"{side}_lookup_table.yaml")) for side in RESOLUTIONS
        }
        space = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
        supernet = OFAMobileNetV3(width_mult=1.2, dropout_rate=0, **space)
        model = Mbv3LatencyModel(supernet, dict.fromkeys(RESOLUTIONS, str(files)))
    encoder = MobileNetArchEncoder(image_size_list=list(RESOLUTIONS), expand_list=[3, 4, 6])
    same = LibraryPredictor(encoder, device="cpu")
    tensors = list(trained.values())
    measured = tensors[0][:, 120 + (RESOLUTIONS[0] - 112) // 16 :]  # columns of the resolutions that have a table
    weights = [torch.cat([measured, tensors[0][:, :120]], 1), *tensors[1:-1], tensors[-1]]
    same.load_state_dict(dict(zip(same.state_dict(), weights[-1:] + weights[:-1], strict=True)))

    def tutorial(limit: float) -> float:
        finder = TutorialFinder("note10", limit, table, predictor)
        return float(finder.run_evolution_search()[1][0])

    def library(limit: float) -> float:
        return float(LibraryFinder(model, same).run_evolution_search(limit)[1][0])

    return {"tutorial": tutorial, "library": library}


def run_peer(finder: Callable[[float], float], limit: float, seed: int) -> Found:
    """What one of `peers` finds under a limit, in ms, from a seed."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the finders draw from
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        accuracy = finder(limit)
    return accuracy, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("device")
    parser.add_argument("files", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tutorial-seeds", type=int, default=3)
    parser.add_argument("--library-seeds", type=int, default=1)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    assert bundle.predictor_path is not None
    tables, predictor = CostTables(bundle.space), AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    latency = {options.device: load_latency_model(bundle, tables, options.device)}
    runs = {"tutorial": options.tutorial_seeds, "library": options.library_seeds}
    finders = peers(options.files) if any(runs.values()) else {}

    def ours(limit: float, budget: int, seed: int) -> Found:
        started = time.perf_counter()
        asked = [Limit("latency_ms", limit, options.device)]
        search = Search(Problem(tables, predictor, constrain(asked, tables, latency)), evaluations=budget, seed=seed)
        for _ in search.run():
            pass
        return search.result().accuracy, time.perf_counter() - started

    ours(20, EVALUATIONS, 0)  # the tables are built with the first
    second = _budget_of_a_second(lambda budget: ours(20, budget, 0)[1])
    print(f"default budget {EVALUATIONS:,}; in a second {second:,}; {options.seeds} seeds")
    distances = []
    for reference in json.loads(options.reference.read_text())["limits"]:
        limit, best_known = reference["max_latency_ms"], reference["best_known_predicted_top1"]
        recorded = [run["predicted_top1"] for run in reference["once_for_all_evolution_finder"]]
        quick = [ours(limit, EVALUATIONS, seed) for seed in range(options.seeds)]
        slow = [ours(limit, second, seed) for seed in range(options.seeds)]
        distances.append(best_known - mean(accuracy for accuracy, _ in slow))
        print(f"{limit} ms: best known {best_known:.6f}, tutorial's {_row(recorded)} recorded")
        print(f"  default: {_row([a for a, _ in quick])}, {_median_ms(quick)}; {_verdict(quick, median(recorded))}")
        print(
            f"  a second: {_row([a for a, _ in slow])}, {_median_ms(slow)}; {_verdict(slow, max(recorded))}; "
            f"mean distance to the best known {distances[-1]:.6f}"
        )
        for name, count in runs.items():
            if not count:
                continue
            found = [run_peer(finders[name], limit, seed) for seed in range(count)]
            ratio = median(s for _, s in found) / median(s for _, s in quick)
            print(
                f"  {name}: {_row([a for a, _ in found])}, {_median_ms(found)}, {ratio:.0f} times as long as the "
                f"default; {_verdict(quick, median(a for a, _ in found))}"
            )
    print(f"mean distance to the best known, given a second: {mean(distances):.6f}")


def _budget_of_a_second(seconds_of: Callable[[int], float]) -> int:
    """Evaluations that a search does in a second on this machine, to 1,000."""
    budget = 4 * EVALUATIONS
    for _ in range(3):
        budget = int(0.95 * budget / seconds_of(budget)) // 1_000 * 1_000  # so that most searches take less
    return budget


def _row(accuracies: list[float]) -> str:
    return f"median {median(accuracies):.6f}, best {max(accuracies):.6f}, worst {min(accuracies):.6f}"


def _median_ms(found: list[Found]) -> str:
    return f"{1000 * median(seconds for _, seconds in found):,.0f} ms"


def _verdict(found: list[Found], other: float) -> str:
    difference = median(accuracy for accuracy, _ in found) - other
    return f"median {difference:+.6f}" + ("" if difference >= 0 else " BELOW")


if __name__ == "__main__":
    main()
