"""What one process of the service shares between requests: settings, database, store, queue and caches."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from service.costs import cost_tables
from service.errors import InvalidError, NotFoundError
from service.jobs.queue import Jobs
from service.settings import Settings
from service.storage.catalogue import Catalogue
from service.storage.database import Database
from service.storage.locations import open_store
from service.storage.store import Store
from service.storage.tables import LatencyModelRow, PredictorVersion, Supernet
from supernet.bundle import PREDICTOR, Bundle
from supernet.families import space_from_json

if TYPE_CHECKING:
    from supernet.evaluation.evaluate import Evaluator

T = TypeVar("T")
MOST_WATCHERS = 100  # event streams that one process serves at a time


class _Entry(Generic[T]):
    """A value once it is made, and the lock that whoever makes it holds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[T] = []  # none or one


class Cache(Generic[T]):
    """A small LRU cache. Values must be immutable per key.

    Threads that need one key make its value once; threads that need other keys do not wait for them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._lock = threading.Lock()  # of the entries, never held while a value is made

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The value of `key`, made now if it is not cached. Raises what `make` raises, and then caches nothing."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        with entry.lock:
            if not entry.values:
                entry.values.append(make())
            return entry.values[0]


def store_of(settings: Settings) -> Store:
    """The artifact store that the settings name. Raises what `open_store` raises."""
    return open_store(settings.store_location, settings.data_directory / "store-cache", settings.store_cache_gib)


class Context:
    """One for each process, made by `create_app` or `run_worker`; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.store = store_of(settings)
        self.closing = threading.Event()  # set before the end, so that responses without an end of their own end
        self.watchers = threading.BoundedSemaphore(MOST_WATCHERS)
        self._tables: Cache[CostTables] = Cache(16)
        self._predictors: Cache[AccuracyPredictor] = Cache(32)
        self._latency_models: Cache[LatencyModel] = Cache(256)
        self._evaluators: Cache[tuple[Bundle, Evaluator]] = Cache(1)
        self._catalogues: Cache[Catalogue] = Cache(4)
        self._answers: Cache[str] = Cache(64)

    @cached_property
    def jobs(self) -> Jobs:
        """The queue of jobs."""
        return Jobs(self.database)

    def tables(self, supernet: Supernet) -> CostTables:
        """The cost tables of a supernet's space."""

        def make() -> CostTables:
            return cost_tables(space_from_json(supernet.manifest["space"]), supernet.manifest["classes"])

        return self._tables.get(supernet.id, make)

    def predictor(self, supernet: Supernet, version: str | None = None) -> AccuracyPredictor:
        """A version of a supernet's accuracy predictor; None: the one in use.

        Raises:
            InvalidError: its bundle has none. NotFoundError: there is no such version.
        """
        version = version or supernet.predictor_version
        if version is None:
            raise InvalidError(
                f"supernet {supernet.id} has no accuracy predictor; run `supple fit` on its bundle, with `--images "
                "FOLDER` if that has no images, as a converted network has none; then register it"
            )

        def load() -> AccuracyPredictor:
            return AccuracyPredictor.load(self._predictor_path(supernet, version), self.tables(supernet).space)

        return self._predictors.get(f"{supernet.id}:{version}", load)

    def _predictor_path(self, supernet: Supernet, version: str) -> Path:
        if str(supernet.manifest["files"].get(PREDICTOR, "")).startswith(version):
            return self.store.bundle_file(supernet.bundle_hash, PREDICTOR)
        with self.database.reading() as session:
            row = session.get(PredictorVersion, (supernet.id, version))
        if row is None:
            raise NotFoundError(f"supernet {supernet.id} has no version {version!r} of its accuracy predictor")
        return self.store.path(row.file)

    def latency_model(self, row: LatencyModelRow, tables: CostTables) -> LatencyModel:
        """A stored latency model. tables: of the space it was fitted for."""
        return self._latency_models.get(row.id, lambda: LatencyModel.from_json(row.model, tables))

    def evaluator(self, supernet: Supernet) -> "tuple[Bundle, Evaluator]":
        """A supernet's bundle and its weights, ready to extract, recalibrate and score. Loads torch."""

        def load() -> "tuple[Bundle, Evaluator]":
            bundle = Bundle.open(self.store.bundle(supernet.bundle_hash))
            return bundle, bundle.evaluator()

        return self._evaluators.get(supernet.id, load)

    def catalogue(self, supernet: Supernet) -> Catalogue:
        """The stored candidates of a supernet, as its predictor sees them."""
        version = supernet.predictor_version or ""
        return self._catalogues.get(f"{supernet.id} {version}", lambda: Catalogue(supernet.id, version))

    def answer(self, question: str, make: Callable[[], str]) -> str:
        """What `make` makes of the database's state alone; made again after a commit of any process."""
        return self._answers.get(f"{self.database.revision()} {question}", make)

    def close(self) -> None:
        """Close the queue and the database."""
        if "jobs" in self.__dict__:
            self.jobs.close()
        self.database.close()
