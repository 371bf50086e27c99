"""Writing searches and their answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.search import SearchResult
from service.candidates import queries as candidates
from service.candidates.on_devices import by_cost, predict_on_device
from service.candidates.queries import candidate_id
from service.context import Context
from service.errors import ConflictError
from service.searches import queries
from service.searches.answer import limit_evidence, members, weakest_evidence
from service.searches.findings import make_findings
from service.searches.problem import Solution
from service.searches.question import Question
from service.searches.request import SearchRequest
from service.storage.store import Store, pack
from service.storage.tables import Search, new_id, now, time_of
from service.supernets import queries as supernets
from supernet.evaluation.metrics import Evaluation, from_fraction
from supernet.space import Genomes


def add_search(session: Session, store: Store, question: Question, *, status: str, key: str | None) -> Search:
    """Write a question as a search that has no answer yet. key: its Idempotency-Key."""
    name = new_id()
    warm_start = None if question.warm_start is None else store.put(pack({"genomes": question.warm_start}))
    return queries.add(
        session,
        Search(
            id=name,
            created_at=time_of(name),
            supernet_id=question.supernet.id,
            request=question.request.to_json(),
            predictor_version=question.predictor_version or "",
            latency_models={device: row.id for device, row in question.latency_models.items()},
            warm_start=warm_start,
            warm_starts=0 if question.warm_start is None else len(question.warm_start),
            question=question.hash,
            seed=question.request.seed,
            idempotency_key=key,
            status=status,
        ),
    )


def add_solution(session: Session, context: Context, search: Search, question: Question, solution: Solution) -> None:
    """Write the solution of a search: its front and finalists as candidates, their predictions, and all it evaluated.

    The search is then done, unless its request asks for verification.
    """
    request, result = question.request, solution.result
    search.evaluations, search.elapsed_ms = result.evaluations, solution.elapsed_ms
    search.findings = make_findings(solution.problem, result).to_json()
    search.evaluated = context.store.put(
        pack(
            {
                "genomes": result.evaluated.genomes,
                **_evaluated_scores(request, result),
                "costs": result.evaluated.costs,
                "cost_names": np.array(result.evaluated.names),
            }
        )
    )
    genomes, on_front = members(result)
    ids = add_candidates(session, context, question, genomes)
    rows = zip(ids, on_front.tolist(), strict=True)
    queries.add_members(
        session,
        [
            {"search_id": search.id, "candidate_id": name, "place": place, "on_front": is_on_front}
            for place, (name, is_on_front) in enumerate(rows)
        ],
    )
    if request.verify:
        search.status = "verifying"
        return
    search.best_candidate_id = ids[0]
    search.limits_hold = weakest_evidence([limit_evidence(limit) for limit in request.limits])
    search.status, search.progress, search.finished_at = "done", None, now()


def _evaluated_scores(request: SearchRequest, result: SearchResult) -> dict[str, Floats]:
    """(N,) what ranked everything evaluated, under a name that says whether it was predicted or measured."""
    accuracy = result.evaluated.accuracy
    if not request.is_inherited:
        return {"predicted_accuracy": accuracy}
    return {f"inherited_{request.metric}": np.array([from_fraction(request.metric, value) for value in accuracy])}


def add_measured(
    session: Session, context: Context, question: Question, genomes: Genomes, scored: Sequence[Evaluation]
) -> None:
    """Write (N, G) genomes as candidates, with the N scores that were measured on held-out images."""
    rows = _candidate_rows(context, question, genomes)
    candidates.add(session, rows, [], [])
    by_candidate = {row["id"]: evaluation for row, evaluation in zip(rows, scored, strict=True)}
    candidates.add_evaluations(session, question.supernet, by_candidate)


def add_candidates(session: Session, context: Context, question: Question, genomes: Genomes) -> list[str]:
    """Write (N, G) genomes as candidates with their predictions, unless they are stored; returns their ids.

    The accuracies are those of the question's version of the predictor, and of the one in use if that is another.
    """
    supernet, tables = question.supernet, context.tables(question.supernet)
    rows = _candidate_rows(context, question, genomes)
    ids: list[str] = [row["id"] for row in rows]
    latency_rows: list[dict[str, Any]] = []
    for row in question.latency_models.values():
        on_device = {row.device: predict_on_device(context.latency_model(row, tables), genomes)}
        for number, name in enumerate(ids):
            values = {cost: found[row.device] for cost, found in by_cost(on_device, number).items() if found}
            if "latency_ms" in values:
                ms = values.pop("latency_ms")
                latency_rows.append(
                    {
                        "candidate_id": name,
                        "latency_model_id": row.id,
                        "predicted_latency_ms": ms,
                        "beside": values or None,
                    }
                )
    candidates.add(session, rows, [], latency_rows)
    # The predictor may have been replaced since the question was asked. Fronts show what the one in use predicts.
    for version in dict.fromkeys((question.predictor_version, supernets.lock_version(session, supernet.id))):
        predicted = candidates.accuracy_rows(context.predictor(supernet, version), version, ids, genomes)
        candidates.add(session, [], predicted, [])
    return ids


def _candidate_rows(context: Context, question: Question, genomes: Genomes) -> list[dict[str, Any]]:
    """The rows of (N, G) genomes as candidates."""
    supernet, tables, created = question.supernet, context.tables(question.supernet), now()
    space = tables.space
    counts = zip(tables.flops(genomes).astype(int).tolist(), tables.params(genomes).astype(int).tolist(), strict=True)
    rows: list[dict[str, Any]] = []
    for genome, (flops, params) in zip(genomes, counts, strict=True):
        architecture, architecture_id = space.decode(genome), space.id(genome)
        rows.append(
            {
                "id": candidate_id(supernet.id, architecture_id),
                "supernet_id": supernet.id,
                "architecture_id": architecture_id,
                "architecture": architecture.to_json(),
                "genome": genome.tobytes(),
                "resolution": architecture.resolution,
                "flops": flops,
                "params": params,
                "created_at": created,
            }
        )
    return rows


def cancel(session: Session, search_id: str) -> None:
    """End a search that has not ended.

    Raises:
        NotFoundError: there is no such search. ConflictError: it has ended already.
    """
    search = queries.get(session, search_id)
    if not queries.finish(session, search_id, status="cancelled"):
        raise ConflictError(f"search {search_id} is {search.status}; only one that has not ended can be cancelled")
