"""Writing a search and its answer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.pareto import thin_out
from evolution.problem import Problem
from evolution.search import SearchResult
from evolution.sensitivity import sensitivities
from service.candidates import queries as candidates
from service.candidates.queries import candidate_id
from service.context import Context
from service.errors import ConflictError
from service.searches import queries
from service.searches.problem import MOST_ON_FRONT, Answered
from service.searches.question import Question
from service.searches.schemas import Holds
from service.storage.store import Store, pack
from service.storage.tables import Search, new_id, now
from supernet.space import Genomes

FINALISTS = 64  # kept beside the front, for verification to choose from


def add(session: Session, store: Store, question: Question, *, status: str, key: str | None) -> Search:
    """Write a question as a search without an answer yet."""
    warm_start = None if question.warm_start is None else store.put(pack({"genomes": question.warm_start}))
    return queries.add(
        session,
        Search(
            id=new_id(),
            supernet_id=question.supernet.id,
            request=dict(question.request),
            predictor_version=question.supernet.predictor_version or "",
            latency_models={device: row.id for device, row in question.latency_models.items()},
            warm_start=warm_start,
            warm_starts=0 if question.warm_start is None else len(question.warm_start),
            question=question.hash,
            seed=question.request["seed"],
            idempotency_key=key,
            status=status,
        ),
    )


def add_answer(session: Session, context: Context, search: Search, question: Question, answer: Answered) -> None:
    """Write what a search found: its front and finalists as candidates, with predictions, and all it evaluated."""
    result = answer.result
    search.evaluations, search.elapsed_ms = result.evaluations, answer.elapsed_ms
    search.findings = _findings(answer)
    search.evaluated = context.store.put(
        pack(
            {
                "genomes": result.evaluated.genomes,
                "predicted_accuracy": result.evaluated.accuracy,
                "costs": result.evaluated.costs,
                "cost_names": np.array(result.evaluated.names),
            }
        )
    )
    genomes, on_front = _kept(result)
    ids = _add_candidates(session, context, question, genomes)
    queries.add_members(
        session,
        [
            {"search_id": search.id, "candidate_id": one, "place": place, "on_front": bool(on_front[place])}
            for place, one in enumerate(ids)
        ],
    )
    if search.request["verify"]:
        search.status = "running"
        return
    search.best_candidate_id = ids[0]
    search.limits_hold = least_certain([limit_holds(limit) for limit in search.request["limits"]])
    search.status, search.finished_at = "done", now()


def _findings(answer: Answered) -> dict[str, Any]:
    """What is kept of how an answer was found."""
    result, problem = answer.result, answer.problem
    findings: dict[str, Any] = {
        "front_size": len(result.front),
        "sensitivity": sensitivity(problem, result.best),
        "two_opt": result.two_opt,
        "two_opt_evaluations": result.two_opt_evaluations,
        "gained_last_1000": result.gained_last_1000,
    }
    if problem.min_accuracy is not None:
        findings["reached"] = result.reached
    if problem.pareto:
        reference = dict(zip(("error", *result.front.names), problem.reference, strict=True))
        findings["hypervolume"] = {"reference": reference, "per_generation": result.hypervolume.tolist()}
    return findings


def sensitivity(problem: Problem, best: Genomes) -> list[dict[str, Any]]:
    """What a little more or less of each limit buys around a genome (G,); nothing where a front says it."""
    return [] if problem.pareto else [one.to_json() for one in sensitivities(problem, best)]


def _kept(result: SearchResult) -> tuple[Genomes, np.ndarray[Any, np.dtype[np.bool_]]]:
    """(N, G) the finalists, best first, then the rest of the front, and whether each is on the front."""
    members = result.front.genomes[thin_out(result.front.objectives, MOST_ON_FRONT)]
    front = {genome.tobytes() for genome in members}
    finalists = [genome.tobytes() for genome in result.finalists.genomes[:FINALISTS]]
    rest = [key for genome in members[::-1] if (key := genome.tobytes()) not in set(finalists)]
    kept = finalists + rest
    genomes = np.frombuffer(b"".join(kept), np.int8).reshape(len(kept), -1)
    return genomes, np.array([key in front for key in kept])


def _add_candidates(session: Session, context: Context, question: Question, genomes: Genomes) -> list[str]:
    """Write (N, G) genomes as candidates with their predictions; their ids."""
    supernet, loaded = question.supernet, context.loaded(question.supernet)
    space, made = loaded.space, now()
    accuracy = context.predictor(supernet).predict(genomes).tolist()
    flops, params = loaded.tables.flops(genomes).astype(int), loaded.tables.params(genomes).astype(int)
    rows = []
    for genome, multiply_adds, parameters in zip(genomes, flops.tolist(), params.tolist(), strict=True):
        architecture, name = space.decode(genome), space.id(genome)
        rows.append(
            {
                "id": candidate_id(supernet.id, name),
                "supernet_id": supernet.id,
                "architecture_id": name,
                "architecture": architecture.to_json(),
                "genome": genome.tobytes(),
                "resolution": architecture.resolution,
                "flops": multiply_adds,
                "params": parameters,
                "created_at": made,
            }
        )
    ids = [row["id"] for row in rows]
    version = supernet.predictor_version
    said = [
        {"candidate_id": one, "predictor_version": version, "predicted_accuracy": fraction}
        for one, fraction in zip(ids, accuracy, strict=True)
    ]
    latency = []
    for model in question.latency_models.values():
        predicted = context.latency_model(model, loaded.tables).predict(genomes).tolist()
        latency += [
            {"candidate_id": one, "latency_model_id": model.id, "predicted_latency_ms": ms}
            for one, ms in zip(ids, predicted, strict=True)
            if math.isfinite(ms)
        ]
    candidates.add(session, rows, said, latency)
    return ids


def limit_holds(limit: Mapping[str, Any], measured: bool = False) -> Holds:
    """How it is known that a limit holds."""
    if limit["cost"] != "latency_ms":
        return "counted"
    return "measured" if measured else "bound" if limit["confidence"] else "predicted"


def least_certain(holds: Sequence[Holds]) -> Holds | None:
    """What to say of several limits together, None without any. Counting is exact, so other words go before it."""
    return min(holds, key=("predicted", "bound", "measured", "counted").index, default=None)


def cancel(session: Session, search_id: str) -> None:
    """End a search that has not ended.

    Raises:
        NotFoundError: there is no such search. ConflictError: it has ended already.
    """
    search = queries.get(session, search_id)
    if not queries.finish(session, search_id, status="cancelled"):
        raise ConflictError(
            f"search {search_id} is {search.status}; only one that is queued or running can be cancelled"
        )
