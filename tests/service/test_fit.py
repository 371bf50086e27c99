"""Subnets are measured over all of FLOPs, once, and a new predictor takes the old one's place in the bundle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.pareto import dominance_ranks
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.pairs import MeasuredPairs
from service.bundles.fit import fit_bundle
from service.bundles.pairs import stratified
from service.bundles.rounds import choose_round
from supernet.bundle import Bundle, BundleError
from supernet.evaluation.evaluate import Evaluator
from supernet.families import preset
from supernet.space import Genomes
from supernet.streams import Stream, random_generator
from tests.support.command_line import Ran

pytestmark = pytest.mark.slow  # it trains, or starts processes

SPACE = preset("mbv3-cifar")


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle_path, tmp_path / "copy"))


def test_measured_subnets_cover_flops_evenly_and_hold_both_ends() -> None:
    genomes = stratified(SPACE, np.random.default_rng(0), 200)
    assert len(np.unique(genomes, axis=0)) == 200
    assert (genomes == SPACE.canonical(genomes)).all()
    assert genomes[0].tolist() == SPACE.encode(SPACE.smallest()).tolist()
    assert genomes[1].tolist() == SPACE.encode(SPACE.largest()).tolist()
    counts, _ = np.histogram(CostTables(SPACE).flops(genomes), 10)
    uniform, _ = np.histogram(CostTables(SPACE).flops(SPACE.sample(np.random.default_rng(0), 200)), 10)
    assert counts.min() >= 14 > uniform.min()
    fewer = stratified(SPACE, np.random.default_rng(0), 50)
    assert fewer.tolist() == genomes[:50].tolist()


def test_a_fit_replaces_the_predictor_and_leaves_the_rest(bundle: Bundle) -> None:
    fitted = fit_bundle(bundle, subnets=20, kind="ridge", seed=1)
    assert fitted.path == bundle.path
    assert fitted.hash != bundle.hash
    assert Bundle.open(bundle.path).hash == fitted.hash
    changed = {name for name, digest in bundle.manifest["files"].items() if fitted.manifest["files"][name] != digest}
    assert changed == {"predictor.npz", "report.json"}
    assert fitted.pairs_path is not None
    assert len(MeasuredPairs.load(fitted.pairs_path, fitted.space)) == 20
    assert fitted.predictor_path is not None
    card = AccuracyPredictor.load(fitted.predictor_path, fitted.space).card
    assert card == fitted.report["predictor"]
    assert card["pairs"] == 20
    assert fitted.report["corners"] == bundle.report["corners"]
    assert fitted.report["learning_curve"][-1]["fitted_on"] == 16


def test_what_was_measured_is_not_measured_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a run that was killed while it wrote a line."""
    seen = []
    evaluate = Evaluator.evaluate

    def counted(self: Evaluator, network: object, resolution: int) -> object:
        seen.append(resolution)
        return evaluate(self, network, resolution)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    first = fit_bundle(bundle, subnets=12, kind="ridge", seed=0)
    assert len(seen) == 12
    pairs = bundle.path.with_name("copy.pairs.jsonl")
    pairs.write_text(pairs.read_text()[:-20])
    again = fit_bundle(first, subnets=12, kind="ridge", seed=0)
    assert len(seen) == 13
    assert again.hash == first.hash
    fit_bundle(again, subnets=14, kind="ridge", seed=1)
    assert len(seen) == 25
    lines = [json.loads(line) | {"of": "other weights"} for line in pairs.read_text().splitlines()]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fit_bundle(again, subnets=12, kind="ridge", seed=0)
    assert len(seen) == 37
    assert len(pairs.read_text().splitlines()) == len(lines) + 12


def test_rounds_measure_near_the_front_and_go_on_where_they_were_killed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round chooses by what was measured before, so a run that goes on must choose the same."""
    seen: list[int] = []
    evaluate = Evaluator.evaluate

    def killed(self: Evaluator, network: object, resolution: int) -> object:
        if len(seen) == 25:
            raise SystemExit
        seen.append(resolution)
        return evaluate(self, network, resolution)

    path = bundle.path.with_name("copy.pairs.jsonl")
    remarks: list[tuple[str, int, int, str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", killed)
        with pytest.raises(SystemExit):
            fit_bundle(bundle, subnets=32, rounds=2, kind="ridge", seed=0)
    assert len(path.read_text().splitlines()) == 25
    assert Bundle.open(bundle.path).hash == bundle.hash
    fitted = fit_bundle(bundle, subnets=32, rounds=2, kind="ridge", seed=0, progress=lambda *step: remarks.append(step))
    card = fitted.report["predictor"]
    assert (card["pairs"], card["rounds"], card["seed"]) == (32, 2, 0)
    lines = path.read_text().splitlines()
    genomes = np.array([json.loads(line)["genome"] for line in lines], np.int8)
    assert len(np.unique(genomes, axis=0)) == 32
    even = stratified(fitted.space, random_generator(0, Stream.PREDICTOR), 12)
    assert {genome.tobytes() for genome in even} == {genome.tobytes() for genome in genomes[:12]}
    assert [step[1:3] for step in remarks if step[0] == "measure subnets"] == [(done, 32) for done in range(26, 33)]
    assert remarks[0][3].startswith("round 2 of 2, accuracy ")
    path.unlink()
    assert fit_bundle(fitted, subnets=32, rounds=2, kind="ridge", seed=0).hash == fitted.hash
    assert path.read_text().splitlines() == lines


def test_a_round_chooses_new_subnets_near_the_front_over_all_of_flops() -> None:
    """The pairs' accuracy is known: more FLOPs and larger kernels. A uniform sample has lower predicted accuracy."""
    rng, tables = np.random.default_rng(0), CostTables(SPACE)

    def truth(genomes: Genomes) -> Floats:
        accuracy: Floats = 0.5 + 0.3 * tables.flops(genomes) / tables.flops_cost.ceiling + genomes[:, -8:].mean(1) / 20
        return accuracy

    measured = stratified(SPACE, rng, 60)
    chosen = choose_round(SPACE, measured, truth(measured), np.log(truth(measured)), 40, np.random.default_rng(1))
    again = choose_round(SPACE, measured, truth(measured), np.log(truth(measured)), 40, np.random.default_rng(1))
    assert chosen.tolist() == again.tolist()
    assert len(np.unique(np.concatenate([measured, chosen]), axis=0)) == 100
    counts, _ = np.histogram(tables.flops(chosen), 5, (0, tables.flops_cost.ceiling))
    assert counts[1:].min() >= 4
    random = SPACE.sample(rng, 2_000)
    both = np.concatenate([chosen, random])
    ranks = dominance_ranks(np.stack([tables.flops(both), -truth(both)], axis=1))
    assert np.median(ranks[:40]) < np.quantile(ranks[40:], 0.1)


def test_rounds_that_are_too_small_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="a round measures 9 subnets; at least 10 are needed, which makes 40 in all"):
        fit_bundle(bundle, subnets=39, rounds=3, kind="ridge", seed=0)


def test_a_bundle_without_held_out_images_is_refused(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["holdout.npz"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no held-out images"):
        fit_bundle(Bundle.open(bundle.path), subnets=12, kind="ridge", seed=0)


def test_the_command_prints_the_error_the_curve_and_a_warning(bundle: Bundle, run: Callable[..., Ran]) -> None:
    """An untrained supernet's accuracies are noise, which no predictor ranks."""
    ran = run("fit", str(bundle.path), "--subnets", "20")
    assert ran.code == 0
    assert "accuracy predictor: 20 pairs, RMSE " in ran.stdout
    assert "learning curve" in ran.stdout
    assert "ranks architectures poorly" in ran.stdout
    printed = json.loads(run("fit", str(bundle.path), "--subnets", "20", "--json").stdout)
    assert [point["fitted_on"] for point in printed["learning_curve"]] == [5, 8, 16]
