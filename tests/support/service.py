"""Measured devices for tests of the service."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.context import Context
from service.devices.measurements import add_model
from service.devices.register import register_device
from service.devices.schemas import DeviceIn, MeasurementsIn
from supernet.operators import flat

HOST = {"machine": "a test"}


BUDGET = 600
LOCAL = "http://localhost:8000"


def make_measurements(tables: CostTables, rng: np.random.Generator, networks: int = 40) -> dict[str, Any]:
    space = tables.space
    blocks = {
        key: 0.001 + sum(record.flops for record in flat(records)) / 1e8
        for key, records in zip(tables.block_keys, tables.operators, strict=True)
        if key is not None
    }
    genomes = space.sample(rng, networks)
    index = tables.index(genomes)
    ms = 0.02 + tables.block_values(blocks)[index].sum(1) * rng.normal(1, 0.01, networks)
    return {
        "format": 2,
        "space_hash": space.hash,
        "threads": 1,
        "batch_size": 1,
        "host": HOST,
        "reference_ms": 0.5,
        "blocks": blocks,
        "networks": [
            {"architecture": space.decode(genome).to_json(), "ms": time}
            for genome, time in zip(genomes, ms.tolist(), strict=True)
        ],
    }


def add_device(
    context: Context, name: str, measurements: dict[str, Any], latency_model: LatencyModel, host: dict[str, Any]
) -> str:
    """Register a device as if `measurements` had been posted from `host`; its name."""
    body = MeasurementsIn(**{**measurements, "host": host})
    with context.database.writing() as session:
        register_device(session, DeviceIn.model_validate({"name": name}))
        add_model(session, context.store, name, body, latency_model)
    return name


def ask(client: TestClient, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Ask without memory, so that a test's earlier searches do not count, unless the body says otherwise."""
    return client.post("/v1/searches", json={"budget": BUDGET, "warm_start": False, **body}, headers=headers)


def make_result(
    plan: str,
    space_hash: str,
    host: dict[str, Any],
    ratios: Mapping[str, float],
    rng: np.random.Generator,
    *,
    reference_ms: float = 0.5,
    samples: int = 40,
    spread: float = 0.001,
) -> dict[str, Any]:
    """What a probe would post after measuring a plan. ratios: by network, over the reference networks' latency."""
    drawn = {name: (ratio * rng.normal(1, spread, samples)).tolist() for name, ratio in ratios.items()}
    return {
        "plan": plan,
        "space_hash": space_hash,
        "threads": 1,
        "batch_size": 1,
        "host": host,
        "reference_ms": reference_ms,
        "measurements": {
            name: {"wall_ms": ratios[name] * reference_ms, "ratios": values} for name, values in drawn.items()
        },
    }
