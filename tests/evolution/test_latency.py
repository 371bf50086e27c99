"""The latency model on devices whose law is known."""

import json

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from supernet.families import preset
from supernet.operators import block_key, flat
from supernet.space import Genomes

TABLES = CostTables(preset("mbv3-digits"))
SPACE = TABLES.space
OVERHEAD, SCALE, OFFSET = 0.004, 0.8, 0.02  # ms per call, without unit, ms per run


def probe(rng: np.random.Generator) -> dict[str, float]:
    """What a probe measures of blocks that do 20 multiply-adds a nanosecond: their work and the overhead of a call."""
    return {
        key: OVERHEAD + 0.001 + sum(one.flops for one in flat(records)) / 1e6 * 0.05 * float(rng.lognormal(0, 0.2))
        for key, records in zip(TABLES.block_keys, TABLES.operators, strict=True)
        if key is not None
    }


def measure(blocks: dict[str, float], genomes: Genomes, rng: np.random.Generator, noise: float) -> Floats:
    work = TABLES.block_values({key: ms - OVERHEAD for key, ms in blocks.items()})
    sums: Floats = work[TABLES.index(genomes)].sum(1)
    return (SCALE * sums + OFFSET) * rng.lognormal(0, noise, len(genomes))


def fitted(networks: int, noise: float, seed: int = 0) -> tuple[LatencyModel, dict[str, float]]:
    rng = np.random.default_rng(seed)
    blocks, genomes = probe(rng), SPACE.sample(rng, networks)
    return LatencyModel.fit(TABLES, blocks, genomes, measure(blocks, genomes, rng, noise), rng), blocks


def test_an_exact_device_is_predicted_exactly_where_it_was_not_measured() -> None:
    model, blocks = fitted(30, 0)
    rng = np.random.default_rng(1)
    genomes = SPACE.sample(rng, 500)
    truth = measure(blocks, genomes, rng, 0)
    assert model.predict(genomes) == pytest.approx(truth, rel=0.01)
    assert model.card["mean_absolute_percentage_error"] < 1
    assert model.card["kendall_tau"] > 0.95
    assert model.card["networks"] == 30
    assert model.card["resolutions"] == list(SPACE.resolutions)


def test_the_card_states_the_error_on_networks_the_fit_did_not_see() -> None:
    noise = 0.05
    errors, fresh = [], []
    for seed in range(6):
        model, blocks = fitted(40, noise, seed)
        rng = np.random.default_rng(100 + seed)
        genomes = SPACE.sample(rng, 500)
        measured = measure(blocks, genomes, rng, noise)
        errors.append(model.card["mean_absolute_percentage_error"])
        fresh.append(100 * np.abs(model.predict(genomes) / measured - 1).mean())
    assert np.mean(errors) == pytest.approx(np.mean(fresh), rel=0.15)


@pytest.mark.slow
def test_a_bound_covers_as_often_as_it_says() -> None:
    covered = []
    for seed in range(8):
        model, blocks = fitted(40, 0.1, seed)
        rng = np.random.default_rng(200 + seed)
        genomes = SPACE.sample(rng, 300)
        covered.append((measure(blocks, genomes, rng, 0.1) <= model.upper_bound(genomes, 0.9)).mean())
    assert 0.86 < np.mean(covered) < 0.96


def test_a_bound_increases_with_its_confidence_and_with_the_prediction() -> None:
    model, _ = fitted(40, 0.1)
    genomes = SPACE.sample(np.random.default_rng(2), 200)
    predicted, lower, upper = (model.predict(genomes), *(model.upper_bound(genomes, c) for c in (0.6, 0.95)))
    assert (predicted <= lower).all()
    assert (lower < upper).all()
    assert np.ptp(upper / predicted) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"confidence is 0.99; 40 measured networks support at most 0.976"):
        model.upper_bound(genomes, 0.99)


def test_wild_measurements_do_not_move_the_fit() -> None:
    rng = np.random.default_rng(3)
    blocks, genomes = probe(rng), SPACE.sample(rng, 40)
    measured = measure(blocks, genomes, rng, 0.02)
    measured[::10] *= 3
    model = LatencyModel.fit(TABLES, blocks, genomes, measured, rng)
    fresh = SPACE.sample(rng, 300)
    error = np.abs(model.predict(fresh) / measure(blocks, fresh, rng, 0) - 1)
    assert error.mean() < 0.05


def test_a_resolution_has_its_own_factor_as_far_as_it_was_measured() -> None:
    rng = np.random.default_rng(4)
    blocks, genomes = probe(rng), SPACE.sample(rng, 60)
    measured = measure(blocks, genomes, rng, 0.01) * np.array([1.0, 1.0, 1.3])[genomes[:, 0]]
    fresh = SPACE.sample(rng, 300)
    truth = measure(blocks, fresh, rng, 0) * np.array([1.0, 1.0, 1.3])[fresh[:, 0]]
    for few, most in ((False, 0.06), (True, 0.16)):
        kept = np.flatnonzero((genomes[:, 0] != 2) | (np.arange(60) < 6)) if few else np.arange(60)
        model = LatencyModel.fit(TABLES, blocks, genomes[kept], measured[kept], np.random.default_rng(0))
        at = fresh[:, 0] == 2
        assert np.abs(model.predict(fresh[at]) / truth[at] - 1).mean() < most


def test_a_resolution_without_measured_blocks_cannot_be_predicted() -> None:
    rng = np.random.default_rng(5)
    blocks = probe(rng)
    stem = TABLES.block_keys[int(TABLES.index(SPACE.encode(SPACE.smallest())[None])[0, 0])]
    assert stem is not None
    del blocks[stem]
    genomes = SPACE.sample(rng, 60)
    genomes = genomes[genomes[:, 0] > 0]
    model = LatencyModel.fit(TABLES, blocks, genomes, np.ones(len(genomes)), rng)
    assert model.card["resolutions"] == [12, 16]
    assert model.card["resolutions_calibrated"] == [12, 16]
    assert np.isinf(model.predict(SPACE.encode(SPACE.smallest())[None]))[0]
    assert np.isinf(model.cost("latency_ms").floors).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="runs a block that was not measured"):
        LatencyModel.fit(TABLES, blocks, SPACE.sample(rng, 60), np.ones(60), rng)


def test_it_survives_json_and_refuses_another_space() -> None:
    model, _ = fitted(20, 0.05)
    data = json.loads(json.dumps(model.to_json()))
    copy = LatencyModel.from_json(data, TABLES)
    genomes = SPACE.sample(np.random.default_rng(6), 100)
    assert (copy.predict(genomes) == model.predict(genomes)).all()
    assert (copy.upper_bound(genomes, 0.8) == model.upper_bound(genomes, 0.8)).all()
    assert copy.card == model.card
    with pytest.raises(ValueError, match="is of space"):
        LatencyModel.from_json(data, CostTables(preset("mbv3-digits", classes=7)))
    with pytest.raises(ValueError, match="not a latency model"):
        LatencyModel.from_json({}, TABLES)


def test_the_same_seed_fits_the_same_model() -> None:
    assert fitted(25, 0.1, 7)[0].to_json() == fitted(25, 0.1, 7)[0].to_json()


def test_times_that_are_none_are_refused() -> None:
    rng = np.random.default_rng(8)
    blocks, genomes = probe(rng), SPACE.sample(rng, 20)
    measured = measure(blocks, genomes, rng, 0)
    with pytest.raises(ValueError, match="3 networks, 3 times; at least 4"):
        LatencyModel.fit(TABLES, blocks, genomes[:3], measured[:3], rng)
    with pytest.raises(ValueError, match=r"network 0: -1.0 ms"):
        LatencyModel.fit(TABLES, blocks, genomes, np.append(-1.0, measured[1:]), rng)
    with pytest.raises(ValueError, match=r"block .*: nan ms"):
        LatencyModel.fit(TABLES, {**blocks, next(iter(blocks)): float("nan")}, genomes, measured, rng)


def test_blocks_that_take_equally_long_are_no_obstacle() -> None:
    rng = np.random.default_rng(9)
    keys = {key for key in TABLES.block_keys if key is not None}
    genomes = SPACE.sample(rng, 40)
    kept = np.array([key is not None for key in TABLES.block_keys])[TABLES.index(genomes)].sum(1)
    model = LatencyModel.fit(TABLES, dict.fromkeys(keys, 0.5), genomes, 0.2 * kept + 1.0, rng)
    assert model.predict(genomes) == pytest.approx(0.2 * kept + 1.0)


def test_networks_of_one_size_give_a_line_through_the_origin() -> None:
    rng = np.random.default_rng(10)
    genomes = np.repeat(SPACE.encode(SPACE.largest())[None], 8, 0)
    blocks = probe(rng)
    model = LatencyModel.fit(TABLES, blocks, genomes, np.full(8, 3.0), rng)
    assert model.predict(genomes) == pytest.approx(np.full(8, 3.0))
    assert model.card["kendall_tau"] is None
    smallest = model.predict(SPACE.encode(SPACE.smallest())[None])
    assert 0 < float(smallest[0]) < 3


def published() -> dict[int, dict[str, float]]:
    """Tables of two of the three resolutions, in which equal blocks take different times."""
    rng = np.random.default_rng(11)
    keys = sorted({key for key in TABLES.block_keys if key is not None})
    return {side: {key: float(rng.uniform(0.1, 1)) for key in keys} for side in (12, 16)}


def test_a_published_table_adds_up_per_resolution() -> None:
    tables = published()
    model = LatencyModel.from_published(TABLES, tables, "a table")
    model = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), TABLES)
    genomes = SPACE.sample(np.random.default_rng(12), 200)
    for genome, predicted in zip(genomes, model.predict(genomes), strict=True):
        arch = SPACE.decode(genome)
        keys = [block_key(records) for _, records in SPACE.part_operators(arch)]
        expected = sum(tables[arch.resolution][key] for key in keys) if arch.resolution in tables else np.inf
        assert predicted == pytest.approx(expected)
    assert np.isinf(model.cost("latency_ms").floors).tolist() == [True, False, False]


def test_a_published_table_says_that_its_error_is_unknown() -> None:
    model = LatencyModel.from_published(TABLES, published(), "a table")
    assert model.card["networks"] == 0
    assert "the error is unknown" in model.card["validation"]
    assert model.card["resolutions"] == [12, 16]
    with pytest.raises(ValueError, match=r"confidence is 0\.9; .* its error is unknown; leave the confidence out"):
        model.factor(0.9)
    with pytest.raises(ValueError, match=r"block 12:.*: nan ms"):
        LatencyModel.from_published(TABLES, {12: {"00": float("nan")}}, "a table")
