"""Stored candidates in memory: the same as the database's, whoever wrote them and when."""

import threading
from collections.abc import Iterator
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
from service.storage.catalogue import Catalogue, StoredCandidates
from service.storage.packed import Pack, read_packs
from service.storage.tables import AccuracyPrediction, Candidate, CandidatePack, Supernet
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


@pytest.mark.usefixtures("small_packs")
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
    assert packed_counts(context)
    assert read_anew(context, supernet) == rows_of(stored) == stored_rows(context, supernet)


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


def read_anew(context: Context, supernet: str) -> dict[bytes, float]:
    """What a new process reads: by genome, the predicted accuracy."""
    with context.database.reading() as session:
        row = session.get_one(Supernet, supernet)
        return rows_of(Catalogue(row.id, row.predictor_version or "").read(session))


def rows_of(stored: StoredCandidates) -> dict[bytes, float]:
    """By genome, the predicted accuracy. No genome is there twice."""
    rows = dict(zip((genome.tobytes() for genome in stored.genomes), stored.accuracy.tolist(), strict=True))
    assert len(rows) == len(stored)
    return rows


def stored_rows(context: Context, supernet: str) -> dict[bytes, float]:
    """The truth: each candidate's own rows."""
    query = (
        select(Candidate.genome, AccuracyPrediction.predicted_accuracy)
        .join(AccuracyPrediction, AccuracyPrediction.candidate_id == Candidate.id)
        .where(Candidate.supernet_id == supernet)
    )
    with context.database.reading() as session:
        return {row.genome: row.predicted_accuracy for row in session.execute(query)}


def packed_counts(context: Context) -> dict[tuple[int, str], int]:
    """How many candidates each pack holds, by its last number and its supernet."""
    with context.database.reading() as session:
        return {(row.last, row.supernet_id): len(row.numbers) // 8 for row in session.scalars(select(CandidatePack))}


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.storage.packed.LEAST", 100)


@pytest.mark.usefixtures("small_packs")
def test_packs_and_the_rows_after_them_are_all_candidates(context: Context, supernet: str) -> None:
    for seed in range(5):
        store(context, supernet, sample(context, supernet, 60, seed))
        assert read_anew(context, supernet) == stored_rows(context, supernet)
        if seed in (0, 3):  # a process that reads now and then goes on in the middle of a pack
            with context.database.reading() as session:
                stored = context.catalogue(session.get_one(Supernet, supernet)).read(session)
            assert rows_of(stored) == stored_rows(context, supernet)
    counts = packed_counts(context)
    assert len(counts) == 2
    assert 200 <= sum(counts.values()) < len(stored_rows(context, supernet))


@pytest.mark.usefixtures("small_packs")
def test_candidates_that_are_stored_already_are_packed_once(context: Context, supernet: str) -> None:
    genomes = sample(context, supernet, 150, 0)
    for _ in range(3):
        store(context, supernet, genomes)
    assert packed_counts(context) == {(len(genomes), supernet): len(genomes)}
    assert read_anew(context, supernet) == stored_rows(context, supernet)


@pytest.mark.usefixtures("small_packs")
def test_supernets_that_share_a_predictor_have_packs_of_their_own(context: Context, supernet: str) -> None:
    genomes = sample(context, supernet, 400, 0)
    with context.database.writing() as session:
        row = session.get_one(Supernet, supernet)
        values = {column.key: getattr(row, column.key) for column in Supernet.__mapper__.column_attrs}
        session.add(Supernet(**{**values, "id": "other", "bundle_hash": "0" * 64}))
        session.flush()
        version = row.predictor_version or ""
        for start, name in enumerate((supernet, "other", supernet, supernet, "other")):
            chosen = genomes[60 * start : 60 * (start + 1)]
            ids = [f"{name[:5]}{start:02}{number:02}" for number in range(len(chosen))]
            values = {"architecture": {}, "resolution": 8, "flops": 1, "params": 1, "created_at": row.created_at}
            rows = [
                {"id": key, "supernet_id": name, "architecture_id": key, "genome": genome.tobytes(), **values}
                for key, genome in zip(ids, chosen, strict=True)
            ]
            predicted = candidates.accuracy_rows(context.predictor(row), version, ids, chosen)
            candidates.add(session, rows, predicted, [])
    assert packed_counts(context) == {(120, "other"): 60, (120, supernet): 60, (240, supernet): 120}
    for name, starts in ((supernet, (0, 2, 3)), ("other", (1, 4))):
        assert read_anew(context, name) == stored_rows(context, name)
        expected = np.concatenate([genomes[60 * start : 60 * (start + 1)] for start in starts])
        assert set(read_anew(context, name)) == {genome.tobytes() for genome in expected}


@pytest.mark.usefixtures("small_packs")
def test_reading_that_failed_goes_on_where_it_ended(
    context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        store(context, supernet, sample(context, supernet, 120, seed))
    with context.database.reading() as session:
        version = session.get_one(Supernet, supernet).predictor_version or ""
    catalogue = Catalogue(supernet, version)

    def fail_after_one(*arguments: Any) -> Iterator[Pack]:
        yield next(read_packs(*arguments))
        raise ConnectionError

    with context.database.reading() as session:
        with monkeypatch.context() as patched:
            patched.setattr("service.storage.catalogue.read_packs", fail_after_one)
            with pytest.raises(ConnectionError):
                catalogue.read(session)
        assert rows_of(catalogue.read(session)) == stored_rows(context, supernet)
