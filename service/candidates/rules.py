"""What is said of candidates, and the front over all of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from evolution.constraints import Limit, cost_of
from evolution.costs import CostTables
from evolution.elimination import Floats
from evolution.pareto import ParetoFront, crowding_distances
from evolution.problem import Problem
from service import models
from service.candidates import queries
from service.candidates.schemas import CandidateOut, Cost, FrontOut, MeasuredLatency
from service.context import Context
from service.devices import queries as devices
from service.errors import InvalidError
from service.supernets import queries as supernets
from service.supernets.rules import why_not_extractable
from supernet.space import Genomes

MOST_MERGED = 512  # members of a front over everything stored that are shown
NOT_VERIFIED = "not verified yet; POST a search with verify: true"
NOT_MEASURED = "not measured; a search with verify: true measures it if a worker runs on the device"


def candidate_id(supernet_id: str, architecture_id: str) -> str:
    """16 hexadecimal digits that name an architecture of a supernet."""
    return hashlib.sha256(f"{supernet_id} {architecture_id}".encode()).hexdigest()[:16]


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
    candidates: Sequence[models.Candidate],
    predicted: Sequence[Predicted],
    search_id: str | None = None,
) -> list[CandidateOut]:
    """Candidates with their predictions and what is verified and measured; for one search only where it is given."""
    ids = [candidate.id for candidate in candidates]
    verified = queries.verifications(session, ids)
    measured = queries.measurements(session, ids, search_id)
    by_name = {one.supernet_id: supernets.get(session, one.supernet_id) for one in candidates}
    wanting = {name: why_not_extractable(supernet) for name, supernet in by_name.items()}
    sizes: dict[str, tuple[int, int]] = {}
    for name, supernet in by_name.items():
        sizes |= _sizes(context.loaded(supernet).tables, [one for one in candidates if one.supernet_id == name])
    return [
        _describe(one, sizes[one.id], said, verified.get(one.id), measured.get(one.id), wanting[one.supernet_id])
        for one, said in zip(candidates, predicted, strict=True)
    ]


def genomes_of(candidates: Sequence[models.Candidate]) -> Genomes:
    """(N, G) the genomes of at least one candidate, all of one space."""
    return np.stack([np.frombuffer(candidate.genome, np.int8) for candidate in candidates])


def _sizes(tables: CostTables, candidates: Sequence[models.Candidate]) -> dict[str, tuple[int, int]]:
    """By candidate: the bytes of its file, at most, and its peak memory."""
    genomes = genomes_of(candidates)
    sizes = (tables.model_bytes(genomes).astype(int).tolist(), tables.peak_memory_bytes(genomes).astype(int).tolist())
    return {one.id: (size, memory) for one, size, memory in zip(candidates, *sizes, strict=True)}


def _describe(
    candidate: models.Candidate,
    sizes: tuple[int, int],
    predicted: Predicted,
    verification: models.Verification | None,
    measured: Mapping[str, models.LatencyMeasurement] | None,
    wanting: str | None,
) -> CandidateOut:
    """wanting: why the supernet gives no networks to verify and measure, None where it does."""
    return CandidateOut(
        id=candidate.id,
        supernet=candidate.supernet_id,
        arch=candidate.architecture,
        resolution=candidate.resolution,
        flops=candidate.flops,
        params=candidate.params,
        model_bytes=sizes[0],
        peak_memory_bytes=sizes[1],
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


def predict_now(session: Session, context: Context, candidates: Sequence[models.Candidate]) -> list[Predicted]:
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


def front(
    session: Session, context: Context, supernet_id: str, x: Cost, y: Cost | None, device: str | None
) -> FrontOut:
    """The Pareto front over all stored candidates of a supernet, as the newest models see them.

    Raises:
        NotFoundError: no such supernet or device. InvalidError: a device missing, or not measured for this space; twice
            the same cost.
    """
    supernet = supernets.get(session, supernet_id)
    names = [name for name in (x, y) if name is not None]
    if len(set(names)) != len(names):
        raise InvalidError(f"x and y are both {x}; name another cost, or leave y out")
    if (device is None) == ("latency_ms" in names):
        raise InvalidError(
            "latency_ms needs a device"
            if device is None
            else f"{' and '.join(names)}: the same on every device; leave device {device!r} out"
        )
    tables, predictor = context.loaded(supernet).tables, context.predictor(supernet)
    latency = {
        name: context.latency_model(row, tables)
        for name, row in devices.models_for(session, [device] if device else [], supernet.space_hash).items()
    }
    limits = [Limit(name, 1.0, device if name == "latency_ms" else None) for name in names]
    problem = Problem(tables, predictor, pareto=tuple(cost_of(limit, tables, latency) for limit in limits))
    ids, genomes, accuracy = queries.of_supernet(session, supernet)
    values = np.stack([cost(genomes) for cost in problem.pareto], axis=1) if ids else np.zeros((0, len(names)))
    known = np.isfinite(values).all(1)
    merged = ParetoFront.of(genomes[known], accuracy[known], values[known], problem.cost_names[: len(names)])
    by_genome = {genome.tobytes(): one for genome, one in zip(genomes, ids, strict=True)}
    kept = merged.genomes[spread_out(merged.objectives, MOST_MERGED)]
    candidates = queries.by_id(session, [by_genome[genome.tobytes()] for genome in kept])
    return FrontOut(
        supernet=supernet.id,
        predictor=supernet.predictor_version or "",
        x=x,
        y=y,
        device=device,
        candidates=len(ids),
        size=len(merged),
        hypervolume=merged.hypervolume(problem.reference),
        reference=dict(zip(("error", *merged.names), problem.reference, strict=True)),
        items=describe(session, context, candidates, predict_now(session, context, candidates)),
    )


def spread_out(objectives: Floats, most: int) -> NDArray[np.intp]:
    """Which of the (N, M) objectives of a front to keep so that at most so many are left: those far from others."""
    distances = crowding_distances(objectives, np.zeros(len(objectives), np.intp))
    return np.sort(np.argsort(-distances, kind="stable")[:most])
