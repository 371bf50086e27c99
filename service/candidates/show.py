"""Stored candidates as the API shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy.orm import Session

from evolution.costs import CostTables
from service.candidates import queries
from service.candidates.on_devices import by_cost, predict_on_device
from service.candidates.queries import genomes_of, measured_value
from service.candidates.schemas import CandidateOut, FineTuningOut, FineTuningStatus, Inherited, MeasuredLatency
from service.context import Context
from service.costs import counted_costs, device_costs
from service.devices import queries as devices
from service.storage.tables import Candidate, FineTuning, LatencyMeasurement, Verification
from service.supernets import queries as supernets
from service.supernets.extractable import why_not_extractable
from supernet.bundle import Training

NOT_VERIFIED = "not verified yet; POST a search with verify: true"
NOT_MEASURED = "not measured; a search with verify: true measures it by a worker or a probe on the device"


@dataclass(frozen=True)
class Predictions:
    """The predictions for one candidate. accuracy, accuracy_std: fractions. on_devices: by cost and device.

    bound_ms: by device. predictor: the version of the accuracy predictor. latency_models: their ids, by device.
    """

    accuracy: float | None
    accuracy_std: float | None
    predictor: str | None
    on_devices: Mapping[str, Mapping[str, float]]
    latency_models: Mapping[str, str]
    bound_ms: Mapping[str, float] = field(default_factory=dict)


def show_candidates(
    session: Session,
    context: Context,
    candidates: Sequence[Candidate],
    predictions: Sequence[Predictions],
    search_ids: Sequence[str] | None = None,
) -> list[CandidateOut]:
    """Candidates with their predictions, verifications and measurements.

    search_ids: by candidate, the search whose measured latencies to show; None: the newest ones.
    """
    ids = [candidate.id for candidate in candidates]
    verifications = queries.verifications(session, ids)
    if search_ids is None:
        newest = queries.measurements(session, ids)
        measured = [newest.get(name) for name in ids]
    else:
        by_search = queries.search_measurements(session, ids, set(search_ids))
        measured = [by_search.get(key) for key in zip(search_ids, ids, strict=True)]
    fine_tunings = queries.fine_tunings(session, ids)
    by_id = supernets.by_ids(session, {row.supernet_id for row in candidates})
    obstacles = {name: why_not_extractable(supernet) for name, supernet in by_id.items()}
    counted: dict[str, dict[str, float]] = {}
    for name, supernet in by_id.items():
        counted |= _counted(context.tables(supernet), [row for row in candidates if row.supernet_id == name])
    return [
        _show_candidate(
            row,
            counted[row.id],
            prediction,
            verifications.get(row.id),
            latencies,
            fine_tunings.get(row.id, []),
            obstacles[row.supernet_id],
        )
        for row, prediction, latencies in zip(candidates, predictions, measured, strict=True)
    ]


def _counted(tables: CostTables, candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
    """By candidate, each counted cost by its name."""
    genomes = genomes_of(candidates)
    columns = {kind: tables.cost(kind.name)(genomes) for kind in counted_costs()}
    return {
        candidate.id: {kind.name: kind.number(values[row]) for kind, values in columns.items()}
        for row, candidate in enumerate(candidates)
    }


def _show_candidate(
    candidate: Candidate,
    counted: Mapping[str, Any],
    predictions: Predictions,
    verification: Verification | None,
    measured: Mapping[str, LatencyMeasurement] | None,
    fine_tunings: Sequence[FineTuning],
    obstacle: str | None,
) -> CandidateOut:
    """obstacle: why networks of the supernet cannot be verified and measured; None if they can."""
    predicted: dict[str, Any] = {
        f"predicted_{kind.name}": predictions.on_devices.get(kind.name, {}) for kind in device_costs()
    }
    on_devices: dict[str, Any] = {f"measured_{kind.name}": _measured(kind.name, measured) for kind in device_costs()}
    return CandidateOut(
        id=candidate.id,
        supernet=candidate.supernet_id,
        arch=candidate.architecture,
        resolution=candidate.resolution,
        **counted,
        predicted_accuracy=predictions.accuracy,
        predicted_accuracy_std=predictions.accuracy_std,
        predictor=predictions.predictor,
        **predicted,
        predicted_latency_bound_ms=dict(predictions.bound_ms),
        latency_models=dict(predictions.latency_models),
        verified_accuracy=verification.verified_accuracy if verification else None,
        verified_images=verification.images if verification and verification.images else None,
        verified_accuracy_reason=verification.reason if verification else obstacle or NOT_VERIFIED,
        inherited=_show_inherited(verification),
        **on_devices,
        measured_latency_details=(
            {name: MeasuredLatency.model_validate(row.details) for name, row in measured.items()} if measured else None
        ),
        measured_latency_reason=None if measured else obstacle or NOT_MEASURED,
        onnx=f"/v1/candidates/{candidate.id}/onnx",
        finetunes=[show_fine_tuning(row) for row in fine_tunings],
        created_at=candidate.created_at,
    )


def _measured(cost: str, measured: Mapping[str, LatencyMeasurement] | None) -> dict[str, float] | None:
    """By device, what was measured of a cost; None where it was measured nowhere."""
    values = {device: measured_value(row, cost) for device, row in (measured or {}).items()}
    return {device: value for device, value in values.items() if value is not None} or None


def _show_inherited(verification: Verification | None) -> Inherited | None:
    if verification is None or verification.verified_accuracy is None:
        return None
    return Inherited(
        accuracy=verification.verified_accuracy,
        top5=verification.top5,
        f1_macro=verification.f1_macro,
        log_likelihood=verification.log_likelihood,
        images=verification.images,
    )


def show_fine_tuning(row: FineTuning) -> FineTuningOut:
    """A fine-tuning. Settings that the recipe decides are known when it is done."""
    card = row.card or {}
    training: Training = "from-scratch" if row.plan["from_scratch"] else "fine-tuned"
    before, after = (card[name]["views"] if card else None for name in ("inherited", training))
    return FineTuningOut(
        id=row.id,
        candidate=row.candidate_id,
        status=cast(FineTuningStatus, row.status),
        training=training,
        **{name: card.get(name, row.plan[name]) for name in ("epochs", "learning_rate", "distillation", "seed")},
        progress=row.progress,
        inherited_accuracy=before and before["accuracy"],
        verified_accuracy=after and after["accuracy"],
        verified_images=card["images"]["holdout"] if card else None,
        onnx=f"/v1/finetunes/{row.id}/onnx" if row.onnx else None,
        weights=f"/v1/finetunes/{row.id}/weights" if row.weights else None,
        problem=row.problem,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def newest_predictions(session: Session, context: Context, candidates: Sequence[Candidate]) -> list[Predictions]:
    """The newest models' predictions for candidates of one supernet, on every device measured for its space."""
    if not candidates:
        return []
    supernet = supernets.get(session, candidates[0].supernet_id)
    tables, genomes = context.tables(supernet), genomes_of(candidates)
    predictor = context.predictor(supernet) if supernet.predictor_version else None
    accuracy = predictor.predict(genomes).tolist() if predictor else [None] * len(genomes)
    std = predictor.predict_std(genomes) if predictor else None
    rows = devices.list_latest_models(session, space_hash=supernet.space_hash)
    on_devices = {row.device: predict_on_device(context.latency_model(row, tables), genomes) for row in rows}
    ids = {row.device: row.id for row in rows}
    result = []
    for i, fraction in enumerate(accuracy):
        predicted = by_cost(on_devices, i)
        latency_models = {device: ids[device] for device in predicted["latency_ms"]}
        spread = None if std is None else float(std[i])
        result.append(Predictions(fraction, spread, supernet.predictor_version, predicted, latency_models))
    return result


def get_candidate(session: Session, context: Context, candidate_id: str) -> CandidateOut:
    """A candidate with the newest models' predictions. Raises NotFoundError."""
    row = queries.get(session, candidate_id)
    return show_candidates(session, context, [row], newest_predictions(session, context, [row]))[0]
