"""A stored candidate as the API shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy.orm import Session

from evolution.costs import CostTables
from service.candidates import queries
from service.candidates.queries import genomes_of
from service.candidates.schemas import CandidateOut, MeasuredLatency
from service.context import Context
from service.costs import counted_costs
from service.devices import queries as devices
from service.storage.tables import Candidate, LatencyMeasurement, Verification
from service.supernets import queries as supernets
from service.supernets.extractable import why_not_extractable

NOT_VERIFIED = "not verified yet; POST a search with verify: true"
NOT_MEASURED = "not measured; a search with verify: true measures it if a worker runs on the device"


@dataclass(frozen=True)
class Predicted:
    """What is predicted of a candidate, and by what. accuracy: a fraction. latency_ms, bound_ms: by device."""

    accuracy: float | None
    predictor: str | None
    latency_ms: Mapping[str, float]
    latency_models: Mapping[str, str]
    bound_ms: Mapping[str, float] = field(default_factory=dict)


def describe(
    session: Session,
    context: Context,
    candidates: Sequence[Candidate],
    predicted: Sequence[Predicted],
    search_id: str | None = None,
) -> list[CandidateOut]:
    """Candidates with their predictions and what is verified and measured; for one search only where it is given."""
    ids = [candidate.id for candidate in candidates]
    verified = queries.verifications(session, ids)
    measured = queries.measurements(session, ids, search_id)
    by_name = {one.supernet_id: supernets.get(session, one.supernet_id) for one in candidates}
    wanting = {name: why_not_extractable(supernet) for name, supernet in by_name.items()}
    counted: dict[str, dict[str, float]] = {}
    for name, supernet in by_name.items():
        counted |= _counted(context.loaded(supernet).tables, [one for one in candidates if one.supernet_id == name])
    return [
        _describe(one, counted[one.id], said, verified.get(one.id), measured.get(one.id), wanting[one.supernet_id])
        for one, said in zip(candidates, predicted, strict=True)
    ]


def _counted(tables: CostTables, candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
    """By candidate, each counted cost by its name."""
    genomes = genomes_of(candidates)
    columns = {kind: tables.cost(kind.name)(genomes) for kind in counted_costs()}
    return {
        candidate.id: {kind.name: kind.number(values[row]) for kind, values in columns.items()}
        for row, candidate in enumerate(candidates)
    }


def _describe(
    candidate: Candidate,
    counted: Mapping[str, float],
    predicted: Predicted,
    verification: Verification | None,
    measured: Mapping[str, LatencyMeasurement] | None,
    wanting: str | None,
) -> CandidateOut:
    """wanting: why the supernet gives no networks to verify and measure, None where it does."""
    return CandidateOut(
        id=candidate.id,
        supernet=candidate.supernet_id,
        arch=candidate.architecture,
        resolution=candidate.resolution,
        **counted,
        predicted_accuracy=predicted.accuracy,
        predictor=predicted.predictor,
        predicted_latency_ms=dict(predicted.latency_ms),
        predicted_latency_bound_ms=dict(predicted.bound_ms),
        latency_models=dict(predicted.latency_models),
        verified_accuracy=verification.verified_accuracy if verification else None,
        verified_images=verification.images if verification and verification.images else None,
        verified_accuracy_reason=verification.reason if verification else wanting or NOT_VERIFIED,
        measured_latency_ms={name: row.measured_latency_ms for name, row in measured.items()} if measured else None,
        measured_latency_details=(
            {name: MeasuredLatency.model_validate(row.details) for name, row in measured.items()} if measured else None
        ),
        measured_latency_reason=None if measured else wanting or NOT_MEASURED,
        onnx=f"/v1/candidates/{candidate.id}/onnx",
        created_at=candidate.created_at,
    )


def predict_now(session: Session, context: Context, candidates: Sequence[Candidate]) -> list[Predicted]:
    """What the newest models say of candidates of one supernet, on every device measured for its space."""
    if not candidates:
        return []
    supernet = supernets.get(session, candidates[0].supernet_id)
    loaded = context.loaded(supernet)
    genomes = genomes_of(candidates)
    accuracy = loaded.predictor.predict(genomes).tolist() if loaded.predictor else [None] * len(genomes)
    rows = devices.latest_models(session, space_hash=supernet.space_hash)
    latency = {row.device: context.latency_model(row, loaded.tables).predict(genomes) for row in rows}
    ids = {row.device: row.id for row in rows}
    result = []
    for i, fraction in enumerate(accuracy):
        known = {device: float(ms[i]) for device, ms in latency.items() if np.isfinite(ms[i])}
        result.append(Predicted(fraction, supernet.predictor_version, known, {device: ids[device] for device in known}))
    return result


def one(session: Session, context: Context, candidate_id: str) -> CandidateOut:
    """A candidate as the newest models see it. Raises NotFoundError."""
    candidate = queries.get(session, candidate_id)
    return describe(session, context, [candidate], predict_now(session, context, [candidate]))[0]
