"""Memory and energy of networks on a device: closed forms, exact floors, and when limits on them are refused."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.limits import Limit, cost_of
from evolution.predictors.device_cost import MIN_NETWORKS, MOST_ERROR, DeviceCostModel
from evolution.predictors.latency import LatencyModel
from evolution.problem import build_problem
from evolution.refusal import Infeasible
from evolution.search import solve
from evolution.strategies import Optimality
from supernet.families import preset
from supernet.space import Genomes
from tests.support.additive import random_ridge
from tests.support.tiny import TINY, enumerate_space

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))
MEMORY, ENERGY = "device_memory_bytes", "energy_mj"


def weights_and_base(genomes: Genomes) -> Floats:
    """Memory that is additive: what the runtime holds, and two copies of the weights."""
    return 2e6 + 8 * DIGITS.params(genomes)


def base_weights_and_peak(genomes: Genomes) -> Floats:
    """Memory as it is: a base, weights, and a maximum over activations, which no sum follows."""
    return weights_and_base(genomes) + 20 * DIGITS.peak_memory_bytes(genomes)


def work(genomes: Genomes) -> Floats:
    """Energy in mJ, in proportion to multiply-adds beside a base."""
    return 0.02 + 1e-7 * DIGITS.flops(genomes)


def fitted(name: str, truth: Callable[[Genomes], Floats], networks: int = 40, noise: float = 0.0) -> DeviceCostModel:
    rng = np.random.default_rng(0)
    genomes = DIGITS.space.sample(rng, networks)
    values = truth(genomes) * rng.normal(1, noise, networks)
    return DeviceCostModel.fit(DIGITS, name, genomes, values, np.random.default_rng(0))


def error(model: DeviceCostModel, truth: Callable[[Genomes], Floats]) -> float:
    """Per cent, on networks that the model has not seen."""
    unseen = DIGITS.space.sample(np.random.default_rng(1), 200)
    return float(100 * np.abs(model.predict(unseen) / truth(unseen) - 1).mean())


@pytest.mark.parametrize(
    ("name", "truth", "noise", "most"),
    [(MEMORY, weights_and_base, 0.0, 0.1), (MEMORY, base_weights_and_peak, 0.0, 5.0), (ENERGY, work, 0.02, 3.0)],
)
def test_what_is_fitted_predicts_unseen_networks(
    name: str, truth: Callable[[Genomes], Floats], noise: float, most: float
) -> None:
    model = fitted(name, truth, noise=noise)
    assert model.refused is None
    assert error(model, truth) < most
    assert model.card["networks"] == 40
    assert 0 <= model.card["mean_absolute_percentage_error"] < MOST_ERROR
    assert model.card["validation"].startswith("cross-validation over the 40 networks")


def test_floors_answers_and_proofs_are_those_of_enumeration() -> None:
    rng = np.random.default_rng(0)
    genomes = ALL[rng.choice(len(ALL), 30, replace=False)]
    model = DeviceCostModel.fit(TABLES, MEMORY, genomes, 1e6 + 400 * TABLES.params(genomes), rng)
    cost = model.cost("device_memory_bytes@board")
    values = cost(ALL)
    assert cost.floors.min() == values.min()
    assert cost.ceiling == values.max()
    assert (values == np.rint(values)).all()  # bytes
    latency = {"board": device(TABLES, model)}
    predictor = random_ridge(TINY, rng)
    middle = Limit(MEMORY, float(np.quantile(values, 0.3)), "board")
    result = solve(build_problem(TABLES, predictor, latency, limits=[middle]))
    assert result.optimality == Optimality(proven=True, bound=result.accuracy, gap=0.0)
    assert result.accuracy == pytest.approx(predictor.predict(ALL[values <= middle.max]).max(), rel=1e-9)
    build_problem(TABLES, predictor, latency, limits=[Limit(MEMORY, values.min(), "board")]).require_feasible()
    below = build_problem(TABLES, predictor, latency, limits=[Limit(MEMORY, values.min() - 1, "board")])
    with pytest.raises(Infeasible, match="no architecture of tiny is below") as refused:
        below.require_feasible()
    assert refused.value.floors == {"device_memory_bytes@board": values.min()}


def device(tables: CostTables, *beside: DeviceCostModel) -> LatencyModel:
    """A latency model, which takes 1 ms for each block, with models beside it."""
    keys = {key for key in tables.block_keys if key is not None}
    blocks = {side: dict.fromkeys(keys, 1.0) for side in tables.space.resolutions}
    return replace(LatencyModel.from_published(tables, blocks, "a test"), beside={one.name: one for one in beside})


def test_energy_follows_the_times_of_parts_from_few_networks() -> None:
    rng = np.random.default_rng(0)
    times = DIGITS.flops_cost.values / 1e7 + np.where(DIGITS.dropped, 0, 0.01) * (1 + np.arange(DIGITS.num_entries) % 3)
    genomes, unseen = DIGITS.space.sample(rng, 10), DIGITS.space.sample(rng, 200)

    def energy(some: Genomes) -> Floats:
        total: Floats = 3 * times[DIGITS.index(some)].sum(1)
        return total

    def error_with(similar: list[Floats]) -> float:
        model = DeviceCostModel.fit(DIGITS, ENERGY, genomes, energy(genomes), rng, similar)
        return float(np.abs(replace(model, card={"refused": None}).predict(unseen) / energy(unseen) - 1).mean())

    assert error_with([times]) < 0.01 < error_with([])


@pytest.mark.parametrize(
    ("networks", "noise", "message"),
    [
        (MIN_NETWORKS - 1, 0.0, "it was measured for 7 networks, and 8 are needed; measure more networks"),
        (40, 0.5, "that the fit did not see are off by .* % on average, and at most 10 % is allowed"),
    ],
)
def test_limits_on_what_is_known_badly_are_refused_with_the_reason(networks: int, noise: float, message: str) -> None:
    def truth(genomes: Genomes) -> Floats:
        return np.abs(work(genomes)) + 0.5

    model = fitted(ENERGY, truth, networks, noise)
    with pytest.raises(ValueError, match=f"energy_mj@board cannot be predicted: .*{message}"):
        cost_of(Limit(ENERGY, 1.0, "board"), DIGITS, {"board": device(DIGITS, model)})


def test_a_counter_that_stands_still_is_too_coarse() -> None:
    genomes = DIGITS.space.sample(np.random.default_rng(0), 10)
    values = work(genomes) * (np.arange(10) > 1)
    model = DeviceCostModel.fit(DIGITS, ENERGY, genomes, values, np.random.default_rng(0))
    assert "2 of the 10 measured networks have 0" in str(model.refused)


@pytest.mark.parametrize(("name", "remedy"), [(MEMORY, "supple probe --memory"), (ENERGY, "RAPL")])
def test_a_device_that_did_not_tell_is_named_with_what_to_do(name: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"the newest measurements of device 'board' have no {name}.*{remedy}"):
        cost_of(Limit(name, 1.0, "board"), DIGITS, {"board": device(DIGITS)})
    with pytest.raises(ValueError, match=f"{name} needs a device"):
        Limit(name, 1.0)
    with pytest.raises(ValueError, match="only latency_ms takes one"):
        Limit(name, 1.0, "board", 0.9)


def test_a_model_survives_json_with_the_models_beside_it() -> None:
    models = [fitted(MEMORY, base_weights_and_peak), fitted(ENERGY, work), fitted(ENERGY, work, 3)]
    genomes = DIGITS.space.sample(np.random.default_rng(2), 50)
    for one in models[:2]:
        read = LatencyModel.from_json(json.loads(json.dumps(device(DIGITS, one).to_json())), DIGITS)
        assert np.array_equal(read.beside[one.name].predict(genomes), one.predict(genomes))
        assert read.beside[one.name].card == one.card
    read = LatencyModel.from_json(json.loads(json.dumps(device(DIGITS, models[2]).to_json())), DIGITS)
    assert read.beside[ENERGY].refused == models[2].refused
    assert "beside" not in device(DIGITS).to_json()
