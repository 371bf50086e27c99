"""Stored candidates in memory: the same as the database's, whoever wrote them and when."""

import threading
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from evolution.pareto import ParetoFront
from service.candidates import queries as candidates
from service.context import Context
from service.searches.problem import WARM_STARTS, prepare
from service.searches.question import make_question
from service.searches.record import add_candidates
from service.searches.schemas import SearchIn
from service.storage.tables import AccuracyPrediction, Candidate, Supernet
from supernet.space import Genomes

FLOPS, PARAMS = "flops", "params"


def store(context: Context, supernet: str, genomes: Genomes) -> None:
    with context.database.writing() as session:
        question = make_question(session, SearchIn.model_validate({"supernet": supernet}))
        add_candidates(session, context, question, genomes)


def sample(context: Context, supernet: str, count: int, seed: int) -> Genomes:
    with context.database.reading() as session:
        space = context.tables(session.get_one(Supernet, supernet)).space
    return np.unique(space.canonical(space.sample(np.random.default_rng(seed), count)), axis=0)


def test_a_catalogue_reads_what_was_added_and_its_front_is_that_of_all(context: Context, supernet: str) -> None:
    for seed in range(4):
        if seed:  # nothing is stored at first
            store(context, supernet, sample(context, supernet, 50, seed))
        with context.database.reading() as session:
            row = session.get_one(Supernet, supernet)
            tables, predictor = context.tables(row), context.predictor(row)
            stored = context.catalogue(row).read(session)
            rows = session.scalars(select(Candidate)).all()
        assert len(stored) == len(rows)
        if not rows:
            assert len(stored.front([tables.cost(FLOPS)])) == 0
            continue
        genomes = candidates.genomes_of(rows)
        assert {genome.tobytes() for genome in stored.genomes} == {genome.tobytes() for genome in genomes}
        np.testing.assert_array_equal(stored.accuracy, predictor.predict(stored.genomes))
        costs = [tables.cost(FLOPS), tables.cost(PARAMS)]
        values = np.stack([cost(genomes) for cost in costs], axis=1)
        whole = ParetoFront.from_genomes(genomes, predictor.predict(genomes), values, (FLOPS, PARAMS))
        merged = stored.front(costs)
        assert {genome.tobytes() for genome in merged.genomes} == {genome.tobytes() for genome in whole.genomes}
        np.testing.assert_array_equal(stored.cost(costs[0]), costs[0](stored.genomes))


def test_a_session_that_began_earlier_sees_what_was_stored_then(context: Context, supernet: str) -> None:
    store(context, supernet, sample(context, supernet, 20, 0))
    with context.database.reading() as earlier:
        row = earlier.get_one(Supernet, supernet)
        catalogue = context.catalogue(row)
        before = len(catalogue.read(earlier))
        store(context, supernet, sample(context, supernet, 50, 1))
        with context.database.reading() as later:
            assert len(catalogue.read(later)) > before
        stored = catalogue.read(earlier)
        if context.database.is_sqlite:  # PostgreSQL's sessions see what others commit
            assert len(stored) == before
        assert len(stored.front([context.tables(row).cost(FLOPS)])) > 0


def test_predictions_are_numbered_in_the_order_in_which_they_are_committed(context: Context, supernet: str) -> None:
    batches = [sample(context, supernet, 30, seed) for seed in range(6)]
    read: list[int] = []
    with context.database.reading() as session:
        row = session.get_one(Supernet, supernet)

    def write(genomes: Genomes) -> None:
        store(context, supernet, genomes)
        with context.database.reading() as session:
            read.append(len(context.catalogue(row).read(session)))

    threads = [threading.Thread(target=write, args=(genomes,)) for genomes in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with context.database.reading() as session:
        stored = context.catalogue(row).read(session)
        numbers = session.scalars(select(AccuracyPrediction.number)).all()
    assert len(set(numbers)) == len(numbers) == len(stored) == len(np.unique(np.concatenate(batches), axis=0))
    assert len(read) == len(batches)


QUESTIONS: list[dict[str, Any]] = [
    {"max_flops": 1e6},
    {"max_flops": 1e6, "choices": {"kernel_size": [3, 5]}},
    {"max_flops": 2e6, "max_params": 9e4, "max_resolution": 12},
    {"max_flops": 2e6, "min_accuracy": 0.93, "objective": "params"},
]


@pytest.mark.parametrize("body", QUESTIONS)
def test_a_search_starts_from_the_best_of_all_stored_candidates(
    client: TestClient, context: Context, supernet: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.searches.problem.LOOKED_AT", 20)
    genomes = sample(context, supernet, 600, 0)
    store(context, supernet, genomes)
    with context.database.reading() as session:
        question, problem = prepare(session, context, make_question(session, SearchIn.model_validate(body)))
    chosen = question.warm_start
    assert chosen is not None
    inside = genomes[problem.within(genomes)]
    best = np.sort(problem.score(inside).fitness)[::-1][:WARM_STARTS]
    np.testing.assert_array_equal(problem.score(chosen).fitness, best)
    assert problem.within(chosen).all()


@pytest.mark.parametrize("body", [{"max_flops": 1e6}, {"objective": "pareto", "objectives": [FLOPS]}])
def test_a_search_starts_from_nothing_where_nothing_is_stored(
    context: Context, supernet: str, body: dict[str, Any]
) -> None:
    with context.database.reading() as session:
        question, _ = prepare(session, context, make_question(session, SearchIn.model_validate(body)))
    assert question.warm_start is None


def test_a_search_for_a_front_starts_from_the_stored_front(context: Context, supernet: str) -> None:
    genomes = sample(context, supernet, 600, 0)
    store(context, supernet, genomes)
    body = SearchIn.model_validate({"objective": "pareto", "objectives": [FLOPS], "max_params": 9e4})
    with context.database.reading() as session:
        question, problem = prepare(session, context, make_question(session, body))
    inside = genomes[problem.within(genomes)]
    scores = problem.score(inside)
    whole = ParetoFront.from_genomes(inside, scores.accuracy, scores.costs[:, :1], [FLOPS])
    assert question.warm_start is not None
    assert {genome.tobytes() for genome in question.warm_start} == {genome.tobytes() for genome in whole.genomes}
