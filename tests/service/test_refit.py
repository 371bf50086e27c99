"""Verified latencies go back into latency models only where the error on held-out networks is no larger."""

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.costs import CostTables
from service.candidates.queries import genomes_of
from service.context import Context
from service.devices.measurements import fit
from service.devices.schemas import MeasurementsIn
from service.searches import queries
from service.searches.refit import FEWEST_NETWORKS, refit_models
from service.storage.tables import LatencyMeasurement, LatencyRefit
from tests.support.databases import sqlite_unless_asked
from tests.support.service import HOST, add_device, make_measurements

database_url = sqlite_unless_asked


def add_verified(context: Context, search_id: str, measured_ms: Any, reference_ms: float) -> None:
    """Write latencies of a search's finalists, as verification does. measured_ms: of (N, G) genomes."""
    with context.database.writing() as session:
        rows = queries.members(session, search_id)[: FEWEST_NETWORKS + 2]
        for row, ms in zip(rows, measured_ms(genomes_of(rows)).tolist(), strict=True):
            measured = LatencyMeasurement(search_id=search_id, candidate_id=row.id, device="board")
            measured.measured_latency_ms, measured.details = ms, {"device_reference_ms": reference_ms}
            session.add(measured)


@pytest.mark.parametrize("helps", [True, False])
def test_both_errors_are_stored_and_a_model_that_does_not_help_is_not(
    client: TestClient,
    context: Context,
    supernet: str,
    tables: CostTables,
    monkeypatch: pytest.MonkeyPatch,
    helps: bool,
) -> None:
    monkeypatch.setattr("service.searches.refit.FOLDS", 2)
    measurements = make_measurements(tables, np.random.default_rng(1), networks=12)
    rng = np.random.default_rng(0)
    for network in measurements["networks"]:  # a first measurement that is much disturbed, or good
        network["ms"] *= float(np.exp((0.25 if helps else 0.01) * rng.standard_normal()))
    add_device(context, "board", measurements, fit(tables, MeasurementsIn(**measurements)), HOST)
    body = {"budget": 400, "warm_start": False, "device": "board", "max_latency_ms": 0.05}
    search_id = client.post("/v1/searches", json=body).json()["id"]

    def measured_ms(genomes: Any) -> Any:
        exact = 0.02 + tables.block_values(measurements["blocks"])[tables.index(genomes)].sum(1)
        noise = rng.standard_normal(len(genomes))
        return exact * np.exp(0.01 * noise if helps else np.abs(2 * noise))

    add_verified(context, search_id, measured_ms, reference_ms=0.4)
    refit_models(context, search_id)
    assert client.get("/v1/devices/board").json()["refits"] == []  # on another scale than the model's
    with context.database.writing() as session:
        for row in session.query(LatencyMeasurement):
            row.details = {"device_reference_ms": 0.5}
    for _ in range(2):  # the second attempt has no new networks
        refit_models(context, search_id)
    device = client.get("/v1/devices/board").json()
    (refit,), (model,) = device["refits"], device["latency_models"]
    assert refit["networks"] == FEWEST_NETWORKS + 2
    assert (refit["new_error"] <= refit["old_error"]) == helps
    assert (refit["new_model"] == model["id"]) == helps
    assert model["version"] == 1 + helps
    if helps:
        assert model["card"]["refit"] == {
            "verified_networks": refit["networks"],
            "old_error": refit["old_error"],
            "new_error": refit["new_error"],
        }
        assert model["card"]["networks"] == 12 + FEWEST_NETWORKS + 2
    with context.database.reading() as session:
        assert session.query(LatencyRefit).count() == 1
