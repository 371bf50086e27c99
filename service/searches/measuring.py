"""Measuring a round of finalists on the devices of a search, by measurement jobs."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sqlalchemy.orm import Session

from evolution.predictors.validation import median_bounds
from service.candidates import queries as candidates
from service.context import Context
from service.devices import queries as devices
from service.devices.measurements import told_costs
from service.devices.probe import ProbeError, fingerprint
from service.errors import SuppleError
from service.measurement_jobs import claims
from service.measurement_jobs import queries as jobs
from service.measurement_jobs.claims import difference_of_hosts, is_same_machine
from service.searches import queries
from service.searches.question import Question, load_question
from service.searches.verify import measure_here, runtime_here, store_plan
from service.storage.tables import LatencyMeasurement, MeasurementJob, new_id, now

State = Literal["waiting", "measured", "decided"]
CONFIDENCE = 0.95  # of each one-sided bound of a measured latency
SAMPLES = 40  # of a network in one turn
MOST_SAMPLES = 200  # of a network near its limit, over all turns
TURNS = MOST_SAMPLES // SAMPLES


def measured_devices(session: Session, question: Question) -> list[str]:
    """The devices of a search on which networks can be measured.

    Not those whose latencies come from a published table, unless a probe on them has asked for jobs.
    """
    return [
        name
        for name, model in question.latency_models.items()
        if model.host or devices.get(session, name).seen_at is not None
    ]


def measure_round(context: Context, search_id: str, number: int, turn: int, candidate_ids: Sequence[str]) -> State:
    """Take samples of finalists on each device where their latency is not decided yet.

    The first turn measures all of them. Each further turn takes samples of those near a limit: whose lower bound is
    within it, and whose upper bound is not.

    Returns:
        `decided`: no finalist needs more samples. `measured`: samples were taken. `waiting`: probes elsewhere are still
        to take them; when they have, another job continues the search.
    """
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        rows = _jobs_of_turn(session, search_id, number, turn)
        undecided = {
            device: names
            for device in measured_devices(session, question)
            if (names := _undecided(session, question, search_id, device, candidate_ids, turn))
        }
    if not rows and not undecided:
        return "decided"
    if not rows:
        rows = _add_jobs(context, question, search_id, number, turn, undecided)
    for job in rows:
        _measure_if_here(context, job)
    with context.database.writing() as session:
        jobs.lock_search(session, search_id)
        if any(job.status in jobs.UNFINISHED for job in _jobs_of_turn(session, search_id, number, turn)):
            return "waiting"
        _store_measurements(session, context, question, search_id)
    return "measured"


def _jobs_of_turn(session: Session, search_id: str, number: int, turn: int) -> list[MeasurementJob]:
    return [job for job in jobs.list_of_search(session, search_id) if (job.number, job.turn) == (number, turn)]


def _undecided(
    session: Session, question: Question, search_id: str, device: str, ids: Sequence[str], turn: int
) -> list[str]:
    """The candidates to take samples of on a device: all in the first turn, then those near a limit of the device."""
    if turn == 0:
        return list(ids)
    limits = [limit.max for limit in question.request.limits if limit.place == f"latency_ms@{device}"]
    measured = candidates.measurements(session, ids, search_id)
    result = []
    for name in ids:
        row = measured.get(name, {}).get(device)
        if row is not None and any(row.details["lower_ms"] <= limit < row.details["upper_ms"] for limit in limits):
            result.append(name)
    return result


def _add_jobs(
    context: Context, question: Question, search_id: str, number: int, turn: int, names: Mapping[str, Sequence[str]]
) -> list[MeasurementJob]:
    """Enqueue one measurement job for each device. names: by device, the candidates to measure."""
    space = context.tables(question.supernet).space
    plans = {ids: store_plan(context, space, ids) for ids in {tuple(ids) for ids in names.values()}}
    with context.database.writing() as session:
        queries.lock_unfinished(session, search_id)
        search = queries.get(session, search_id)
        rows = []
        for device, ids in names.items():
            predicted = candidates.predicted_on_devices(session, ids, search.latency_models)
            rows.append(
                MeasurementJob(
                    id=new_id(),
                    search_id=search_id,
                    device=device,
                    number=number,
                    turn=turn,
                    space_hash=space.hash,
                    expected_ms={name: predicted[name]["latency_ms"][device] for name in ids},
                    samples=SAMPLES,
                    plan=plans[tuple(ids)],
                    status="queued",
                )
            )
        jobs.add(session, rows)
    return rows


def _measure_if_here(context: Context, job: MeasurementJob) -> None:
    """Run a job if its device is this machine and no probe holds it."""
    with context.database.writing() as session:
        model = devices.get_models(session, [job.device], job.space_hash)[job.device]
        if not is_same_machine(model.host, fingerprint()):
            return
        runtime = runtime_here(model.host, devices.get(session, job.device).threads)
        if runtime is None:
            return
        host = fingerprint(runtime)
        claims.note_probe(session, job.device, host)
        claimed = None if difference_of_hosts(model, host) else claims.claim_here(session, job.device, job.id)
    if claimed is None or claimed.claim is None:
        return
    result, error = None, None
    try:
        result = measure_here(context, job, runtime)
    except ProbeError as fault:
        error = str(fault)
    try:
        with context.database.writing() as session:
            claims.finish_job(session, context.store, job.device, job.id, claimed.claim, result, error)
    except SuppleError as fault:  # the result cannot be right
        with context.database.writing() as session:
            claims.finish_job(session, context.store, job.device, job.id, claimed.claim, None, fault.detail)


def _store_measurements(session: Session, context: Context, question: Question, search_id: str) -> None:
    """Write what all jobs of a search have measured: of each candidate and device, the samples of all turns."""
    samples: dict[tuple[str, str], list[_Samples]] = defaultdict(list)
    for job in jobs.list_of_search(session, search_id):
        if job.result is None:
            continue
        result = json.loads(context.store.path(job.result).read_bytes())
        for name, sampled in result["measurements"].items():
            told = told_costs(sampled.get("memory_bytes") or None, sampled.get("joules") or None)
            one = _Samples(tuple(sampled["ratios"]), sampled["wall_ms"], result["reference_ms"], told)
            samples[name, job.device].append(one)
    models = devices.get_models(session, list(question.latency_models), question.supernet.space_hash)
    scales = {device: model.reference_ms for device, model in models.items()}
    candidates.put_measurements(
        session, [_measurement(search_id, *key, turns, scales[key[1]]) for key, turns in samples.items()]
    )


@dataclass(frozen=True)
class _Samples:
    """What one job measured of one candidate. told: by cost, what the device told beside latency.

    No network needs nothing: a counter that did not move tells nothing.
    """

    ratios: tuple[float, ...]
    wall_ms: float
    reference_ms: float
    told: Mapping[str, float]


def _measurement(
    search_id: str, candidate_id: str, device: str, turns: Sequence[_Samples], device_reference_ms: float | None
) -> LatencyMeasurement:
    """The latency of a candidate over all turns: the median ratio, on the scale of the device's latency model.

    Of memory and energy the largest value of all turns counts.
    """
    beside: dict[str, float] = {}
    for turn in turns:
        beside |= {cost: max(value, beside.get(cost, 0)) for cost, value in turn.told.items()}
    ratios = np.array([ratio for turn in turns for ratio in turn.ratios])
    reference_ms = float(np.median([turn.reference_ms for turn in turns]))
    scale = device_reference_ms or reference_ms
    ratio, (lower, upper) = float(np.median(ratios)), median_bounds(ratios, CONFIDENCE)
    return LatencyMeasurement(
        search_id=search_id,
        candidate_id=candidate_id,
        device=device,
        measured_latency_ms=ratio * scale,
        details={
            "ratio": ratio,
            "spread": float(np.median(np.abs(ratios - ratio)) / ratio),
            "wall_ms": float(np.median([turn.wall_ms for turn in turns])),
            "reference_ms": reference_ms,
            "device_reference_ms": device_reference_ms,
            "samples": len(ratios),
            "lower_ms": lower * scale,
            "upper_ms": upper * scale,
            **({"beside": beside} if beside else {}),
        },
        created_at=now(),
    )
