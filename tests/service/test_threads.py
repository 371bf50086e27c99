"""Predictions run on one thread of the BLAS: in the API, in workers, and in a search without a server."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from threadpoolctl import threadpool_info, threadpool_limits

from evolution.predictors.accuracy import AccuracyPredictor
from service.bundles.search import search_bundle
from service.context import Context
from service.settings import Settings
from service.worker import run_worker
from supernet.bundle import Bundle
from supernet.space import Genomes
from tests.support.service import ask


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def set_blas_threads(number: int) -> None:
    """Set by a thread that ends at once, because only one living thread may set it."""
    thread = threading.Thread(target=threadpool_limits, args=(number, "blas"))
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    (before,) = blas_threads()
    set_blas_threads(2)
    assert blas_threads() == {2}
    yield
    set_blas_threads(before)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of threads while accuracy was predicted."""
    numbers: set[int] = set()
    predict = AccuracyPredictor.predict

    def watched(self: AccuracyPredictor, genomes: Genomes) -> object:
        numbers.update(blas_threads())
        return predict(self, genomes)

    monkeypatch.setattr(AccuracyPredictor, "predict", watched)
    return numbers


def test_a_search_of_a_bundle_takes_one_and_gives_the_others_back(bundle_path: Path, seen: set[int]) -> None:
    search_bundle(Bundle.open(bundle_path), {"flops": 2e6}, evaluations=200)
    assert seen == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("supernet")
def test_the_api_takes_one_as_long_as_it_runs(client: TestClient, seen: set[int]) -> None:
    assert ask(client, max_flops=2e6).status_code == 201
    assert seen == {1}


def test_a_worker_takes_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []

    def run_jobs(context: Context, handlers: object) -> None:
        numbers.append(blas_threads())
        context.close()

    monkeypatch.setattr("service.worker.runner.run_worker", run_jobs)
    run_worker(settings)
    assert numbers == [{1}]
