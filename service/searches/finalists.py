"""Verifying the finalists of a search, a round at a time, until one of them holds every limit.

Unless a request ignores what is stored, the best candidates that are verified already compete in the first round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Self

import numpy as np
from sqlalchemy.orm import Session

from evolution.costs import DEVICE_COSTS
from evolution.limits import Limit, cost_of
from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.context import Context
from service.costs import device_costs
from service.errors import NotVerifiedError
from service.jobs.queue import Step
from service.measurement_jobs import queries as jobs
from service.searches import queries
from service.searches.answer import limit_evidence, weakest_evidence
from service.searches.findings import Findings, find_sensitivity
from service.searches.measuring import CONFIDENCE, TURNS, State, measure_round
from service.searches.problem import make_problem
from service.searches.queries import lock_unfinished
from service.searches.question import load_question
from service.searches.record import add_candidates
from service.searches.refit import refit_models
from service.searches.request import SearchRequest
from service.searches.verify import verify
from service.storage.tables import Candidate, LatencyMeasurement, Search, Verification
from service.supernets import queries as supernets

ROUND = 5  # finalists verified in one round
ROUNDS = 4  # the most rounds


def verify_finalists(context: Context, step: Step, search_id: str) -> None:
    """Verify finalists, a round at a time, until one holds every limit or the last round is over.

    While probes elsewhere measure a round, no worker waits: this job ends, and the last of their results enqueues
    another one, which goes through the same rounds and finds what was done.
    """
    tried: list[str] = []
    for number in range(ROUNDS):
        chosen = step(f"choose {number}", partial(_choose, context, search_id, number, tuple(tried)))
        progress = {"round": number + 1, "rounds": ROUNDS, "finalists": len(tried) + len(chosen)}
        for candidate_id in chosen:
            verified = {"phase": "verify", "verified": len(tried), **progress}
            step(f"verify {candidate_id}", partial(_verify, context, search_id, candidate_id, verified))
            tried.append(candidate_id)
        measuring = {"phase": "measure", "verified": len(tried), **progress}
        for turn in range(TURNS):
            measure = partial(_measure, context, search_id, number, turn, chosen, measuring)
            state: State = step(f"measure {number}.{turn}", measure) if chosen else "decided"
            if state == "waiting":
                return
            if state == "decided":
                break
        is_last = number == ROUNDS - 1 or not chosen
        if step(f"conclude {number}", partial(_conclude, context, search_id, tuple(tried), is_last)):
            step("refit", partial(refit_models, context, search_id))
            return


def _choose(context: Context, search_id: str, number: int, tried: Sequence[str]) -> list[str]:
    """The finalists of the next round, best first by prediction, skipping those that the measurements so far rule out.

    If the upper bounds of the tried finalists are 10 % above what was predicted, the next ones must be predicted to
    leave 10 % of room. The first round also has the rivals. A round that has measurement jobs stays as it is.
    """
    with context.database.reading() as session:
        for job in jobs.list_of_search(session, search_id):
            if (job.number, job.turn) == (number, 0):
                return list(job.expected_ms)
    rivals = [] if tried else _add_rivals(context, search_id)
    with context.database.reading() as session:
        ids = [candidate.id for candidate in queries.members(session, search_id)]
        results = FinalistResults.load(session, context, search_id, ids)
    excesses = {
        place: median(results.upper[name][place] / results.predicted[name][place] for name in names)
        for place in {limit.place for limit in results.request.limits if limit.device is not None}
        if (names := [name for name in tried if place in results.upper.get(name, {})])
    }

    def is_likely_within(name: str) -> bool:
        return all(
            results.predicted[name][limit.place] * excesses.get(limit.place, 1.0) <= limit.max
            for limit in results.request.limits
            if limit.device is not None
        )

    skipped = {*tried, *rivals}
    rest = [name for name in results.rows if name not in skipped and (not excesses or is_likely_within(name))]
    return [*rivals, *rest[:ROUND]]


def _add_rivals(context: Context, search_id: str) -> list[str]:
    """Make the best verified candidates within the limits candidates of the search; returns their ids, best first.

    Raises EndedError when the search was cancelled.
    """
    with context.database.reading() as session:
        search = queries.get(session, search_id)
        question = load_question(session, context, search)
        genomes, scores = candidates.measured_genomes(session, question.supernet, question.request.metric)
        places = len(queries.members(session, search_id))
    if not question.request.warm_start or not len(genomes):
        return []
    problem = make_problem(context, question)
    inside = problem.within(genomes)
    genomes, scores = genomes[inside], scores[inside]
    costs = np.stack([cost(genomes) for cost in problem.costs], axis=1)
    best = np.argsort(-problem.fitness(scores, costs), kind="stable")[:ROUND]
    if not len(best):
        return []
    with context.database.writing() as session:
        lock_unfinished(session, search_id)
        ids = add_candidates(session, context, question, genomes[best])
        queries.add_members(
            session,
            [
                {"search_id": search_id, "candidate_id": name, "place": places + rank, "on_front": False}
                for rank, name in enumerate(ids)
            ],
        )
    return ids


def _verify(context: Context, search_id: str, candidate_id: str, progress: Mapping[str, Any]) -> None:
    _write_progress(context, search_id, progress)
    verify(context, candidate_id)


def _write_progress(context: Context, search_id: str, progress: Mapping[str, Any]) -> None:
    """Say how far the search is. Raises EndedError when it was cancelled."""
    with context.database.writing() as session:
        lock_unfinished(session, search_id).progress = dict(progress)


def _measure(
    context: Context,
    search_id: str,
    number: int,
    turn: int,
    candidate_ids: Sequence[str],
    progress: Mapping[str, Any],
) -> State:
    _write_progress(context, search_id, progress)
    return measure_round(context, search_id, number, turn, candidate_ids)


def _conclude(context: Context, search_id: str, tried: Sequence[str], is_last: bool) -> bool:
    """End the search if a tried finalist holds every limit, or after the last round. Returns whether it ended."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
    with context.database.writing() as session:
        results = FinalistResults.load(session, context, search_id, tried)
        holding = [name for name in tried if not results.violations(name)]
        if holding:
            best = min(holding, key=results.rank)
            limits = results.request.limits
            evidence = weakest_evidence([limit_evidence(limit, results.is_measured(best, limit)) for limit in limits])
            genome = np.frombuffer(results.rows[best].genome, np.int8)
            findings = Findings.from_json(results.search.findings)
            findings = replace(findings, sensitivity=find_sensitivity(make_problem(context, question), genome))
            if findings.reached is not None:
                findings = replace(findings, reached=True)  # as verified: a candidate below `min_accuracy` violates it
            if best != queries.members(session, search_id)[0].id:
                findings = replace(findings, two_opt=None, optimality=None)  # of the best candidate by prediction
            queries.finish(
                session,
                search_id,
                status="done",
                best_candidate_id=best,
                limits_hold=evidence,
                findings=findings.to_json(),
            )
        elif is_last:
            queries.finish(session, search_id, status="not_verified", problem=results.problem_document())
        return bool(holding) or is_last


def _measured(on_devices: Mapping[str, LatencyMeasurement]) -> dict[str, float]:
    """By place, what was measured of a candidate. on_devices: by device."""
    return {
        f"{kind.name}@{device}": value
        for device, row in on_devices.items()
        for kind in device_costs()
        if (value := candidates.measured_value(row, kind.name)) is not None
    }


def _upper(on_devices: Mapping[str, LatencyMeasurement]) -> dict[str, float]:
    """By place, the upper bounds of a candidate's latencies. on_devices: by device."""
    return {f"latency_ms@{device}": row.details["upper_ms"] for device, row in on_devices.items()}


def _digits(value: float) -> str:
    """Four significant digits, and all digits of a large number, as of bytes."""
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


@dataclass(frozen=True)
class FinalistResults:
    """Predictions, verifications and measurements of some finalists of a search, in their order.

    rows: by candidate. counted: by candidate, the cost to minimise, unless a device has it or there is none.
    predicted, measured: by candidate and place, as `Limit.place`. upper: the upper bounds of what was measured; of
    memory and energy, which are measured once, the measured value itself.
    devices: on which candidates must be measured. faults: by device, why some could not be.
    """

    search: Search
    request: SearchRequest
    rows: Mapping[str, Candidate]
    counted: Mapping[str, float]
    verifications: Mapping[str, Verification]
    predicted: Mapping[str, Mapping[str, float]]
    measured: Mapping[str, Mapping[str, float]]
    upper: Mapping[str, Mapping[str, float]]
    devices: frozenset[str]
    faults: Mapping[str, str]

    @classmethod
    def load(cls, session: Session, context: Context, search_id: str, ids: Sequence[str]) -> Self:
        """The results of these candidates of a search."""
        search, rows = queries.get(session, search_id), candidates.by_id(session, ids)
        request, counted = SearchRequest.from_json(search.request), {}
        if rows and request.minimise not in (None, *DEVICE_COSTS):
            tables = context.tables(supernets.get(session, search.supernet_id))
            cost = cost_of(Limit(request.objective, 1.0), tables, {})
            counted = dict(zip(ids, cost(genomes_of(rows)).tolist(), strict=True))
        predicted = candidates.predicted_on_devices(session, ids, search.latency_models)
        measured = candidates.measurements(session, ids, search_id)
        measuring = jobs.list_of_search(session, search_id)
        return cls(
            search,
            request,
            {candidate.id: candidate for candidate in rows},
            counted,
            candidates.verifications(session, ids),
            {
                name: {f"{cost}@{device}": x for cost, values in costs.items() for device, x in values.items()}
                for name, costs in predicted.items()
            },
            {name: _measured(on_devices) for name, on_devices in measured.items()},
            {name: _measured(on_devices) | _upper(on_devices) for name, on_devices in measured.items()},
            frozenset(job.device for job in measuring),
            {job.device: job.error for job in measuring if job.error is not None},
        )

    def is_measured(self, candidate_id: str, limit: Limit) -> bool:
        """Whether the cost that a limit is on was measured on a device."""
        return limit.place in self.measured.get(candidate_id, {})

    def violations(self, candidate_id: str) -> list[str]:
        """Which requirements a candidate violates: a cost that may be above its limit, too low a verified accuracy.

        A measured latency holds its limit if its upper bound does, and measured memory and energy if they do. Counted
        costs hold as counted. On devices that cannot be measured, and where a device does not tell its memory or its
        energy, costs hold as predicted.
        """
        result = []
        for limit in self.request.limits:
            if limit.device is None or limit.device not in self.devices:
                continue
            device, name = limit.device, f"{limit.cost} on {limit.device}"
            value, upper = (by.get(candidate_id, {}).get(limit.place) for by in (self.measured, self.upper))
            if value is None or upper is None:
                if f"latency_ms@{device}" in self.measured.get(candidate_id, {}):
                    continue  # the device was measured and does not tell this
                fault = self.faults.get(device)
                result.append(f"{name} could not be measured: {fault}" if fault else f"{name} was not measured")
            elif value > limit.max:
                result.append(f"measured {name} is {_digits(value)}, the limit {_digits(limit.max)}")
            elif upper > limit.max:
                result.append(
                    f"measured {name} is {_digits(value)} with the {CONFIDENCE:.0%} upper bound {_digits(upper)}, "
                    f"the limit {_digits(limit.max)}"
                )
        min_accuracy, verified = self.request.min_accuracy, self.verified_accuracy(candidate_id)
        if min_accuracy is not None and verified is not None and verified < min_accuracy:
            result.append(f"verified accuracy is {verified:.4f}, min_accuracy {min_accuracy:g}")
        return result

    def verified_accuracy(self, candidate_id: str) -> float | None:
        """The verified accuracy of a candidate; None where it could not be verified."""
        verification = self.verifications.get(candidate_id)
        return verification.verified_accuracy if verification else None

    def rank(self, candidate_id: str) -> tuple[float, ...]:
        """A key to sort by, best first: the minimised cost, the request's metric, accuracy, then log-likelihood."""
        cost = self.counted.get(candidate_id, 0.0)
        if self.request.minimise in DEVICE_COSTS:
            costs = {**self.predicted.get(candidate_id, {}), **self.measured.get(candidate_id, {})}
            cost = costs[f"{self.request.minimise}@{self.request.device}"]
        verification, metric = self.verifications.get(candidate_id), self.request.metric
        columns = ("verified_accuracy" if metric == "accuracy" else metric, "verified_accuracy", "log_likelihood")
        return cost, *(-(getattr(verification, column, None) or 0.0) for column in columns)

    def problem_document(self) -> dict[str, Any]:
        """Why no finalist is the answer, and which one comes closest."""
        violations = {name: self.violations(name) for name in self.rows}
        closest = min(violations, key=lambda name: (len(violations[name]), self._excess(name)))
        return NotVerifiedError(
            f"the closest of {len(violations)} finalists tried is candidate {closest}: "
            f"{'; '.join(violations[closest])}. "
            "Raise the limit, limit the bound at a confidence, or measure the device again",
            closest=closest,
        ).problem_document()

    def _excess(self, candidate_id: str) -> float:
        """The largest ratio of a measured cost's upper bound to its limit."""
        upper = self.upper.get(candidate_id, {})
        return max((upper.get(limit.place, 0.0) / limit.max for limit in self.request.limits), default=0.0)
