"""Reading and writing candidates, their predictions, verifications and measurements."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.predictors.accuracy import AccuracyPredictor
from service.errors import NotFoundError
from service.storage.database import insert_missing
from service.storage.packed import pack_predictions
from service.storage.tables import (
    AccuracyPrediction,
    Candidate,
    FineTuning,
    LatencyMeasurement,
    LatencyPrediction,
    Supernet,
    Verification,
    now,
)
from supernet.evaluation.metrics import Evaluation, Metric, to_fraction
from supernet.space import Genomes


def get(session: Session, candidate_id: str) -> Candidate:
    """A candidate.

    Raises:
        NotFoundError: no candidate has this id.
    """
    candidate = session.get(Candidate, candidate_id)
    if candidate is None:
        raise NotFoundError(f"there is no candidate {candidate_id!r}")
    return candidate


def architecture(session: Session, some_id: str) -> dict[str, Any] | None:
    """The architecture, as JSON, that has this id or whose candidate has it."""
    if (candidate := session.get(Candidate, some_id)) is not None:
        return candidate.architecture
    in_any = Candidate.supernet_id.in_(select(Supernet.id)), Candidate.architecture_id == some_id  # as the index is
    return session.scalar(select(Candidate.architecture).where(*in_any).limit(1))


def by_id(session: Session, ids: Sequence[str]) -> list[Candidate]:
    """Candidates, in the order of these ids."""
    rows = {candidate.id: candidate for candidate in session.scalars(select(Candidate).where(Candidate.id.in_(ids)))}
    return [rows[name] for name in ids]


def add(
    session: Session,
    candidates: Sequence[dict[str, Any]],
    accuracy: Sequence[dict[str, Any]],
    latency: Sequence[dict[str, Any]],
) -> None:
    """Write candidates and predictions, except those that are stored already.

    accuracy: predictions by one version of the predictor.
    """
    insert_missing(session, Candidate, candidates)
    insert_missing(session, LatencyPrediction, latency)
    if accuracy:
        insert_missing(session, AccuracyPrediction, _number(session, accuracy))
        pack_predictions(session, accuracy[0]["predictor_version"])


def _number(session: Session, accuracy: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predictions by one version of the predictor, numbered. Until the transaction ends, no other one numbers any.

    So no prediction is committed after one that has a larger number. Candidates are written before: a transaction that
    waits here must not hold back the one that it waits for.
    """
    version = accuracy[0]["predictor_version"]
    if session.get_bind().dialect.name == "postgresql":  # in SQLite one transaction writes at a time
        key = int.from_bytes(hashlib.sha256(f"predictions {version}".encode()).digest()[:8], signed=True)
        session.execute(select(func.pg_advisory_xact_lock(key)))
    newest = select(func.max(AccuracyPrediction.number)).where(AccuracyPrediction.predictor_version == version)
    start = (session.scalar(newest) or 0) + 1
    return [{**row, "number": number} for number, row in enumerate(accuracy, start)]


def list_genomes(session: Session, supernet_id: str) -> tuple[list[str], Genomes]:
    """All N candidates of a supernet: their ids and (N, G) genomes."""
    query = select(Candidate.id, Candidate.genome).where(Candidate.supernet_id == supernet_id).order_by(Candidate.id)
    rows = session.execute(query).all()
    if not rows:
        return [], np.zeros((0, 0), np.int8)
    ids, genomes = zip(*rows, strict=True)
    return list(ids), np.frombuffer(b"".join(genomes), np.int8).reshape(len(rows), -1)


def accuracy_rows(
    predictor: AccuracyPredictor, version: str | None, ids: Sequence[str], genomes: Genomes
) -> list[dict[str, Any]]:
    """What a version of a predictor predicts for N candidates and their (N, G) genomes, as `add` takes it."""
    std = predictor.predict_std(genomes)
    deviations = [None] * len(genomes) if std is None else std.tolist()
    return [
        {
            "candidate_id": name,
            "predictor_version": version,
            "predicted_accuracy": accuracy,
            "predicted_accuracy_std": deviation,
        }
        for name, accuracy, deviation in zip(ids, predictor.predict(genomes).tolist(), deviations, strict=True)
    ]


def accuracy_predictions(
    session: Session, ids: Sequence[str], versions: Collection[str]
) -> dict[tuple[str, str], AccuracyPrediction]:
    """The predictions of versions of predictors, by candidate and version."""
    query = select(AccuracyPrediction).where(
        AccuracyPrediction.candidate_id.in_(ids), AccuracyPrediction.predictor_version.in_(versions)
    )
    return {(row.candidate_id, row.predictor_version): row for row in session.scalars(query)}


def predicted_on_devices(
    session: Session, ids: Sequence[str], latency_models: Mapping[str, str]
) -> dict[str, dict[str, dict[str, float]]]:
    """What the models of devices predict, by candidate, cost and device. latency_models: their ids by device."""
    predictions = device_predictions(session, ids, latency_models.values())
    return {name: on_devices(predictions, name, latency_models) for name in ids}


def device_predictions(
    session: Session, ids: Sequence[str], model_ids: Collection[str]
) -> dict[tuple[str, str], dict[str, float]]:
    """What the models of devices predict, by candidate and the latency model's id, then by cost."""
    query = select(LatencyPrediction).where(
        LatencyPrediction.candidate_id.in_(ids), LatencyPrediction.latency_model_id.in_(model_ids)
    )
    return {
        (row.candidate_id, row.latency_model_id): {"latency_ms": row.predicted_latency_ms, **(row.beside or {})}
        for row in session.scalars(query)
    }


def on_devices(
    predictions: Mapping[tuple[str, str], Mapping[str, float]], candidate_id: str, latency_models: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Of what `device_predictions` read, one candidate's by cost and device. latency_models: their ids by device."""
    by_cost: dict[str, dict[str, float]] = defaultdict(dict)
    for device, model_id in latency_models.items():
        for cost, value in predictions.get((candidate_id, model_id), {}).items():
            by_cost[cost][device] = value
    return by_cost


def verifications(session: Session, ids: Sequence[str]) -> dict[str, Verification]:
    """Verifications, by candidate."""
    rows = session.scalars(select(Verification).where(Verification.candidate_id.in_(ids)))
    return {row.candidate_id: row for row in rows}


def measurements(
    session: Session, ids: Sequence[str], search_id: str | None = None
) -> dict[str, dict[str, LatencyMeasurement]]:
    """The newest latency measurements, by candidate and device. search_id: only those made for this search."""
    query = select(LatencyMeasurement).where(LatencyMeasurement.candidate_id.in_(ids))
    if search_id is not None:
        query = query.where(LatencyMeasurement.search_id == search_id)
    newest: dict[str, dict[str, LatencyMeasurement]] = defaultdict(dict)
    for row in session.scalars(query.order_by(LatencyMeasurement.created_at)):
        newest[row.candidate_id][row.device] = row
    return newest


def search_measurements(
    session: Session, ids: Sequence[str], search_ids: Collection[str]
) -> dict[tuple[str, str], dict[str, LatencyMeasurement]]:
    """The latency measurements made for searches, by search and candidate, then by device."""
    query = select(LatencyMeasurement).where(
        LatencyMeasurement.candidate_id.in_(ids), LatencyMeasurement.search_id.in_(search_ids)
    )
    measured: dict[tuple[str, str], dict[str, LatencyMeasurement]] = defaultdict(dict)
    for row in session.scalars(query):
        measured[row.search_id, row.candidate_id][row.device] = row
    return measured


def measured_value(row: LatencyMeasurement, cost: str) -> float | None:
    """What was measured of a cost on the device; None if the device did not tell it."""
    if cost == "latency_ms":
        return row.measured_latency_ms
    value: float | None = row.details.get("beside", {}).get(cost)
    return value


def verified_latencies(session: Session, device: str, space_hash: str) -> list[tuple[Candidate, LatencyMeasurement]]:
    """The latencies that verification measured on a device, of candidates of a search space, newest first."""
    query = (
        select(Candidate, LatencyMeasurement)
        .join(LatencyMeasurement, LatencyMeasurement.candidate_id == Candidate.id)
        .join(Supernet, Supernet.id == Candidate.supernet_id)
        .where(LatencyMeasurement.device == device, Supernet.space_hash == space_hash)
        .order_by(LatencyMeasurement.created_at.desc(), Candidate.id)
    )
    return [(candidate, measured) for candidate, measured in session.execute(query)]


def fine_tunings(session: Session, ids: Sequence[str]) -> dict[str, list[FineTuning]]:
    """Fine-tunings by candidate, newest first."""
    order = FineTuning.created_at.desc(), FineTuning.id
    query = select(FineTuning).where(FineTuning.candidate_id.in_(ids)).order_by(*order)
    by_candidate: dict[str, list[FineTuning]] = defaultdict(list)
    for row in session.scalars(query):
        by_candidate[row.candidate_id].append(row)
    return by_candidate


def evaluations(session: Session, supernet: Supernet) -> dict[bytes, Evaluation]:
    """What the verified candidates of a supernet score on held-out images, by the bytes of the genome."""
    query = (
        select(Candidate.genome, Verification)
        .join(Verification, Verification.candidate_id == Candidate.id)
        .where(Candidate.supernet_id == supernet.id)
        .order_by(Candidate.id)
    )
    views = max(1, supernet.manifest["views"]["count"])
    return {
        genome: Evaluation(
            accuracy=row.verified_accuracy,
            log_likelihood=row.log_likelihood,
            images=row.images * views,
            top5=row.top5,
            f1_macro=row.f1_macro,
        )
        for genome, row in session.execute(query)
        if row.verified_accuracy is not None and row.log_likelihood is not None
    }


def measured_genomes(session: Session, supernet: Supernet, metric: Metric) -> tuple[Genomes, Floats]:
    """(N, G) genomes of a supernet's verified candidates and (N,) their scores by a metric, as fractions."""
    values = {key: scored.value(metric) for key, scored in evaluations(session, supernet).items()}
    fractions = {key: to_fraction(metric, value) for key, value in values.items() if value is not None}
    if not fractions:
        return np.zeros((0, 0), np.int8), np.zeros(0)
    return np.frombuffer(b"".join(fractions), np.int8).reshape(len(fractions), -1), np.array([*fractions.values()])


def add_evaluations(session: Session, supernet: Supernet, scored: Mapping[str, Evaluation]) -> None:
    """Write what candidates of a supernet score on held-out images, unless that is stored. scored: by candidate.

    A row that an earlier release wrote gets the scores that it lacks.
    """
    views = max(1, supernet.manifest["views"]["count"])
    rows = {
        name: {"top5": evaluation.top5, "f1_macro": evaluation.f1_macro, "log_likelihood": evaluation.log_likelihood}
        for name, evaluation in scored.items()
    }
    insert_missing(
        session,
        Verification,
        [
            {
                "candidate_id": name,
                "verified_accuracy": scored[name].accuracy,
                "images": scored[name].images // views,
                "created_at": now(),
                **row,
            }
            for name, row in rows.items()
        ],
    )
    lacking = select(Verification.candidate_id).where(
        Verification.candidate_id.in_(rows),
        Verification.verified_accuracy.is_not(None),
        Verification.f1_macro.is_(None),
    )
    for name in session.scalars(lacking.order_by(Verification.candidate_id)).all():
        session.execute(update(Verification).where(Verification.candidate_id == name).values(rows[name]))


def add_unverifiable(session: Session, candidate_id: str, reason: str) -> None:
    """Write why a candidate cannot be verified, unless it has been verified."""
    values = {"candidate_id": candidate_id, "images": 0, "reason": reason, "created_at": now()}
    insert_missing(session, Verification, [values])


def put_measurements(session: Session, measurements: Sequence[LatencyMeasurement]) -> None:
    """Write measured latencies. They replace those of the same search, candidate and device."""
    for row in measurements:
        session.merge(row)


def candidate_id(supernet_id: str, architecture_id: str) -> str:
    """The id of an architecture as a candidate of a supernet: 16 hexadecimal digits."""
    return hashlib.sha256(f"{supernet_id} {architecture_id}".encode()).hexdigest()[:16]


def genomes_of(candidates: Sequence[Candidate]) -> Genomes:
    """(N, G) the genomes of N > 0 candidates, all of one space."""
    return np.stack([np.frombuffer(candidate.genome, np.int8) for candidate in candidates])
