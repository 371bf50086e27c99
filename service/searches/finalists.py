"""Verifying the finalists of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.limits import Limit, cost_of
from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.context import Context
from service.errors import NotVerifiedError
from service.jobs.queue import Step
from service.searches import problem as rules
from service.searches import queries
from service.searches.queries import _lock
from service.searches.question import load_question
from service.searches.record import least_certain, limit_holds, sensitivity
from service.searches.verify import measurable, measure_latency, verify
from service.storage.tables import Candidate, Search, Verification
from service.supernets import queries as supernets

ROUND = 5  # finalists verified before asking whether one of them wins
ROUNDS = 4  # asked so often at most


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
            holds = least_certain([limit_holds(x, found.is_measured(best, x)) for x in found.limits])
            genome = np.frombuffer(found.rows[best].genome, np.int8)
            around = sensitivity(rules.make_problem(context, question), genome)
            findings = {**(found.search.findings or {}), "sensitivity": around}
            if "reached" in findings:
                findings["reached"] = True  # as verified: what falls short does not hold
            if best != queries.members(session, search_id)[0].id:
                findings["two_opt"] = None  # which was said of the best by prediction
            queries.finish(
                session, search_id, status="done", best_candidate_id=best, limits_hold=holds, findings=findings
            )
        elif last:
            queries.finish(session, search_id, status="not_verified", problem=found.problem_document())
        return bool(holding) or last


@dataclass(frozen=True)
class Found:
    """What is known of some of a search's candidates, in their order. *_ms: by candidate and device.

    counted: by candidate, the cost to minimise where that is none of a device.
    """

    search: Search
    rows: Mapping[str, Candidate]
    counted: Mapping[str, float]
    verifications: Mapping[str, Verification]
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

    def problem_document(self) -> dict[str, Any]:
        """Why none of them is the answer, and which comes closest."""
        count = {one: self.violations(one) for one in self.rows}
        closest = min(count, key=lambda one: (len(count[one]), self._excess(one)))
        return NotVerifiedError(
            f"the closest of {len(count)} finalists tried is candidate {closest}: {'; '.join(count[closest])}. "
            "Raise the limit, limit the bound at a confidence, or measure the device again",
            closest=closest,
        ).problem_document()

    def _excess(self, one: str) -> float:
        ratios = [self.measured_ms.get(one, {}).get(x["device"], 0.0) / x["max"] for x in self.limits if x["device"]]
        return max(ratios, default=0.0)
