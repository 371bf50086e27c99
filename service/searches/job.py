"""The job of a search: searches if that is long, verifies the finalists, and says which of them won."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.constraints import Limit, cost_of
from evolution.search import Search
from service import models
from service.candidates import queries as candidates
from service.candidates.rules import genomes_of
from service.context import Context
from service.devices import queries as devices
from service.errors import NotVerifiedError, problem_of
from service.jobs import MOST_ATTEMPTS, Step
from service.searches import queries, rules
from service.searches.rules import Question
from service.searches.verify import measurable, measure_latency, verify
from service.store import pack, unpack
from service.supernets import queries as supernets

ROUND = 5  # finalists verified before asking whether one of them wins
ROUNDS = 4  # asked so often at most
SAVE_SECONDS = 1.0  # a worker that dies loses at most so much of a search


class _CancelledError(Exception):
    """The search was cancelled while it ran."""


def run_search(context: Context, step: Step, subject: str) -> None:
    """The job: answer the search whose id is `subject`."""
    with context.database.writing() as session:
        search = queries.lock(session, subject)
        search.attempts += 1
        attempts, going = search.attempts, search.status in queries.UNFINISHED
        if search.status == "queued":
            search.status = "running"
    if not going:
        return
    try:
        if attempts > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while running this search; their logs say why")
        step("search", lambda: _search(context, subject))
        if search.request["verify"]:
            _verify(context, step, subject)
    except _CancelledError:
        return
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, subject, status="failed", problem=problem_of(error))
        raise


def load_question(session: Session, context: Context, search: models.Search) -> Question:
    """The question that a stored search asks, with the models and genomes it was asked with."""
    genomes = None
    if search.warm_start is not None:
        genomes = unpack(context.store.path(search.warm_start).read_bytes())["genomes"]
    rows = devices.models_by_id(session, list(search.latency_models.values()))
    supernet = supernets.get(session, search.supernet_id)
    return Question(supernet, search.request, {row.device: row for row in rows}, genomes)


def _search(context: Context, search_id: str) -> None:
    """Search on from where the last worker saved, and store the answer."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        saved = queries.state(session, search_id)
        if queries.members(session, search_id):
            return
    started = time.perf_counter()
    problem = rules.make_problem(context, question)
    search = rules.begin(problem, question) if saved is None else Search.resume(problem, unpack(saved))
    due = time.monotonic() + SAVE_SECONDS
    for progress in search.run():
        if time.monotonic() < due:
            continue
        with context.database.writing() as session:
            row = _lock(session, search_id)
            row.progress = {
                "phase": progress.phase,
                "evaluations": progress.evaluations,
                "budget": progress.budget,
                "best_predicted_accuracy": progress.predicted_accuracy,
            }
            queries.save_state(session, search_id, progress.generation, pack(search.state()))
        due = time.monotonic() + SAVE_SECONDS
    answer = rules.answered(search, started)
    with context.database.writing() as session:
        row = _lock(session, search_id)
        rules.add_answer(session, context, row, question, answer)
        queries.drop_state(session, search_id)


def _lock(session: Session, search_id: str) -> models.Search:
    row = queries.lock(session, search_id)
    if row.status not in queries.UNFINISHED:
        raise _CancelledError
    return row


# Verification.


def _verify(context: Context, step: Step, search_id: str) -> None:
    """Verify finalists, a round at a time, until one holds every limit or enough were tried."""
    tried: list[str] = []
    for number in range(ROUNDS):
        chosen = step(f"choose {number}", partial(_choose, context, search_id, tuple(tried)))
        for one in chosen:
            step(f"verify {one}", partial(_verify_one, context, search_id, one, len(tried)))
            tried.append(one)
        step(f"measure {number}", partial(_measure, context, search_id, chosen))
        last = number == ROUNDS - 1 or not chosen
        if step(f"conclude {number}", partial(_conclude, context, search_id, tuple(tried), last)):
            return


def _choose(context: Context, search_id: str, tried: Sequence[str]) -> list[str]:
    """The next finalists to try, best first as predicted, without those that what was measured so far speaks against.

    If the tried ones took 10 % longer than predicted, so will others: they must leave as much room below the limit.
    """
    with context.database.reading() as session:
        ids = [candidate.id for candidate in queries.members(session, search_id)]
        found = Found.load(session, context, search_id, ids)
    slower = {
        device: median(found.measured_ms[one][device] / found.predicted_ms[one][device] for one in ones)
        for device in found.search.latency_models
        if (ones := [one for one in tried if device in found.measured_ms.get(one, {})])
    }

    def likely(one: str) -> bool:
        return all(
            found.predicted_ms[one][limit["device"]] * slower.get(limit["device"], 1.0) <= limit["max"]
            for limit in found.limits
            if limit["cost"] == "latency_ms"
        )

    return [one for one in found.rows if one not in tried and (not slower or likely(one))][:ROUND]


def _verify_one(context: Context, search_id: str, candidate_id: str, done: int) -> None:
    with context.database.writing() as session:
        _lock(session, search_id).progress = {"phase": "verify", "verified": done}
    verify(context, candidate_id)


def _measure(context: Context, search_id: str, candidate_ids: Sequence[str]) -> None:
    """Measure candidates as those of the search's devices that this machine is."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
    for device in measurable(question.latency_models) if candidate_ids else []:
        measure_latency(context, search_id, candidate_ids, device, question.latency_models[device].id)


def _conclude(context: Context, search_id: str, tried: Sequence[str], last: bool) -> bool:
    """End the search if a tried candidate holds every limit, or if this was the last round; whether it ended."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
    with context.database.writing() as session:
        found = Found.load(session, context, search_id, tried)
        holding = [one for one in tried if not found.violations(one)]
        if holding:
            best = min(holding, key=found.rank)
            holds = rules.least_certain([rules.limit_holds(x, found.is_measured(best, x)) for x in found.limits])
            genome = np.frombuffer(found.rows[best].genome, np.int8)
            around = rules.sensitivity(rules.make_problem(context, question), genome)
            findings = {**(found.search.findings or {}), "sensitivity": around}
            if "reached" in findings:
                findings["reached"] = True  # as verified: what falls short does not hold
            if best != queries.members(session, search_id)[0].id:
                findings["two_opt"] = None  # which was said of the best by prediction
            queries.finish(
                session, search_id, status="done", best_candidate_id=best, limits_hold=holds, findings=findings
            )
        elif last:
            queries.finish(session, search_id, status="not_verified", problem=found.problem())
        return bool(holding) or last


@dataclass(frozen=True)
class Found:
    """What is known of some of a search's candidates, in their order. *_ms: by candidate and device.

    counted: by candidate, the cost to minimise where that is none of a device.
    """

    search: models.Search
    rows: Mapping[str, models.Candidate]
    counted: Mapping[str, float]
    verifications: Mapping[str, models.Verification]
    predicted_ms: Mapping[str, Mapping[str, float]]
    measured_ms: Mapping[str, Mapping[str, float]]

    @classmethod
    def load(cls, session: Session, context: Context, search_id: str, ids: Sequence[str]) -> "Found":
        """Read it."""
        search, rows = queries.get(session, search_id), candidates.by_id(session, ids)
        counted, objective = {}, search.request["objective"]
        if rows and objective not in ("accuracy", "pareto", "latency_ms"):
            cost = cost_of(Limit(objective, 1.0), context.loaded(supernets.get(session, search.supernet_id)).tables, {})
            counted = dict(zip(ids, cost(genomes_of(rows)).tolist(), strict=True))
        return cls(
            search,
            {candidate.id: candidate for candidate in rows},
            counted,
            candidates.verifications(session, ids),
            candidates.predicted_latency(session, ids, search.latency_models),
            candidates.measured_latency(session, ids, search_id),
        )

    @property
    def limits(self) -> list[dict[str, Any]]:
        """The search's limits."""
        return list(self.search.request["limits"])

    def is_measured(self, one: str, limit: Mapping[str, Any]) -> bool:
        """Whether the latency that a limit is about was measured."""
        return limit["device"] in self.measured_ms.get(one, {})

    def violations(self, one: str) -> list[str]:
        """What speaks against a candidate: a measured latency above its limit, too low a verified accuracy.

        Where the device measured one of the candidates, the others count as violating until they are measured, too.
        What is counted, and latencies that cannot be measured here, hold as counted and predicted.
        """
        result = []
        for limit in self.limits:
            device = limit["device"]
            if any(device in measured for measured in self.measured_ms.values()):
                ms = self.measured_ms.get(one, {}).get(device)
                if ms is None:
                    result.append(f"latency_ms on {device} was not measured, as that of others was")
                elif ms > limit["max"]:
                    result.append(f"measured latency_ms on {device} is {ms:.4g}, the limit {limit['max']:g}")
        least, verified = self.search.request["min_accuracy"], self.accuracy(one)
        if least is not None and verified is not None and verified < least:
            result.append(f"verified accuracy is {verified:.4f}, min_accuracy {least:g}")
        return result

    def accuracy(self, one: str) -> float | None:
        """Verified."""
        verification = self.verifications.get(one)
        return verification.verified_accuracy if verification else None

    def rank(self, one: str) -> tuple[float, ...]:
        """Less is better: the cost to minimise, then verified accuracy and log-likelihood. Ties keep the order."""
        request = self.search.request
        cost = self.counted.get(one, 0.0)
        if request["objective"] == "latency_ms":
            known = {**self.predicted_ms.get(one, {}), **self.measured_ms.get(one, {})}
            cost = known[request["device"]]
        verification = self.verifications.get(one)
        likelihood = (verification.log_likelihood if verification else None) or 0.0
        return cost, -(self.accuracy(one) or 0.0), -likelihood

    def problem(self) -> dict[str, Any]:
        """Why none of them is the answer, and which comes closest."""
        count = {one: self.violations(one) for one in self.rows}
        closest = min(count, key=lambda one: (len(count[one]), self._excess(one)))
        return NotVerifiedError(
            f"the closest of {len(count)} finalists tried is candidate {closest}: {'; '.join(count[closest])}. "
            "Raise the limit, limit the bound at a confidence, or measure the device again",
            closest=closest,
        ).problem()

    def _excess(self, one: str) -> float:
        ratios = [self.measured_ms.get(one, {}).get(x["device"], 0.0) / x["max"] for x in self.limits if x["device"]]
        return max(ratios, default=0.0)
