"""All stored candidates of a supernet as arrays in memory, so that a search or a front over a million of them is fast.

Reading a million rows takes seconds. A catalogue reads most of them packed, and each only once: predictions are
numbered in the order in which their transactions commit, so the new ones are those with larger numbers.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.costs import Cost
from evolution.pareto import ParetoFront
from service.storage.packed import packed_until, read_packs
from service.storage.tables import AccuracyPrediction, Candidate
from supernet.space import Genomes

MOST_COLUMNS = 16  # costs of all candidates that stay in memory
MOST_FRONTS = 16
CHUNK = 65_536  # candidates whose costs are computed at once


class _Column:
    """A column that grows at its end. What was handed out before never changes."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._buffer, self.length = values, len(values)

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        end = self.length + len(values)
        if end > len(self._buffer):
            larger = np.empty((max(end, 2 * len(self._buffer)), *self._buffer.shape[1:]), self._buffer.dtype)
            larger[: self.length] = self._buffer[: self.length]
            self._buffer = larger
        self._buffer[self.length : end] = values
        self.length = end

    @property
    def values(self) -> NDArray[Any]:
        """The values, read-only."""
        view = self._buffer[: self.length]
        view.setflags(write=False)
        return view


@dataclass(frozen=True)
class StoredCandidates:
    """N candidates at one time. genomes: (N, G). accuracy: (N,) predicted, a fraction."""

    genomes: Genomes
    accuracy: Floats
    _catalogue: "Catalogue" = field(repr=False)

    def __len__(self) -> int:
        """N."""
        return len(self.genomes)

    def cost(self, cost: Cost) -> Floats:
        """(N,) a cost of all candidates."""
        return self._catalogue.cost(cost)[: len(self)]

    def front(self, costs: Sequence[Cost]) -> ParetoFront:
        """The front of accuracy and these costs over all candidates whose costs are known."""
        return self._catalogue.front(costs, self)


class Catalogue:
    """The candidates of one supernet with the accuracies that one version of its predictor predicts. Thread-safe."""

    def __init__(self, supernet_id: str, predictor_version: str) -> None:
        self._key = (supernet_id, predictor_version)
        self._lock = threading.RLock()
        self._read = 0  # all predictions up to this number were read
        self._numbers = _Column(np.empty(0, np.int64))  # of the predictions
        self._accuracy = _Column(np.empty(0))
        self._genomes: _Column | None = None  # None until the first candidate says how many genes there are
        self._costs: OrderedDict[str, _Column] = OrderedDict()
        self._fronts: OrderedDict[tuple[str, ...], tuple[ParetoFront, int]] = OrderedDict()

    def read(self, session: Session) -> StoredCandidates:
        """All candidates that this session sees, which may have begun before another one that read more of them."""
        with self._lock:
            _, version = self._key
            newest = select(func.max(AccuracyPrediction.number)).where(AccuracyPrediction.predictor_version == version)
            seen = session.scalar(newest) or 0
            if seen > self._read:
                self._read_new(session)
                self._read = max(self._read, seen)
            if self._genomes is None:
                return StoredCandidates(np.zeros((0, 0), np.int8), np.empty(0), self)
            count = int(np.searchsorted(self._numbers.values, seen, side="right"))
            return StoredCandidates(self._genomes.values[:count], self._accuracy.values[:count], self)

    def _read_new(self, session: Session) -> None:
        """Read the candidates whose predictions have numbers above those that were read: packs, then single rows."""
        supernet_id, version = self._key
        packed = packed_until(session, version)
        for pack in read_packs(session, supernet_id, version, self._read, packed):
            self._append(pack.numbers, pack.genomes, pack.accuracy)
        query = (
            select(AccuracyPrediction.number, Candidate.genome, AccuracyPrediction.predicted_accuracy)
            .join(Candidate, Candidate.id == AccuracyPrediction.candidate_id)
            .where(
                AccuracyPrediction.predictor_version == version,
                AccuracyPrediction.number > max(self._read, packed),
                Candidate.supernet_id == supernet_id,
            )
            .order_by(AccuracyPrediction.number)
        )
        for rows in session.execute(query).partitions(CHUNK):
            numbers, genomes, accuracy = zip(*rows, strict=True)
            array = np.frombuffer(b"".join(genomes), np.int8).reshape(len(genomes), -1)
            self._append(np.array(numbers, np.int64), array, np.array(accuracy))

    def _append(self, numbers: NDArray[np.int64], genomes: Genomes, accuracy: Floats) -> None:
        if self._genomes is None:
            self._genomes = _Column(genomes[:0])
        self._numbers.append(numbers)
        self._genomes.append(genomes)
        self._accuracy.append(accuracy)
        self._read = int(numbers[-1])

    def cost(self, cost: Cost) -> Floats:
        """(N,) a cost of all candidates that were read so far."""
        with self._lock:
            key = digest(cost)
            column = self._costs.setdefault(key, _Column(np.empty(0)))
            self._costs.move_to_end(key)
            if len(self._costs) > MOST_COLUMNS:
                self._costs.popitem(last=False)
            if self._genomes is not None:
                for start in range(column.length, self._genomes.length, CHUNK):
                    column.append(cost(self._genomes.values[start : start + CHUNK]))
            return column.values

    def front(self, costs: Sequence[Cost], stored: StoredCandidates) -> ParetoFront:
        """The front over `stored`: the front that was found last, merged with what was read since."""
        with self._lock:
            key = tuple(digest(cost) for cost in costs)
            values = np.stack([self.cost(cost)[: len(stored)] for cost in costs], axis=1)
            front, start = self._fronts.pop(key, (None, 0))
            if start > len(stored):  # another thread has read more since
                front, start = None, 0
            genomes, accuracy, new = stored.genomes[start:], stored.accuracy[start:], values[start:]
            known = np.isfinite(new).all(1)
            genomes, accuracy, new = genomes[known], accuracy[known], new[known]
            if front is not None and len(front):
                genomes = np.concatenate([front.genomes, genomes])
                accuracy = np.concatenate([front.accuracy, accuracy])
                new = np.concatenate([front.costs, new])
            front = ParetoFront.from_genomes(genomes, accuracy, new, [cost.name for cost in costs])
            self._fronts[key] = front, len(stored)
            if len(self._fronts) > MOST_FRONTS:
                self._fronts.popitem(last=False)
            return front


def digest(cost: Cost) -> str:
    """A key that equal costs of one space share: a latency model that was fitted anew makes another cost."""
    parts = [cost.values, *(getattr(cost, name, np.zeros(0)) for name in ("scale", "offset"))]
    return hashlib.sha256(b"".join([cost.name.encode(), *(part.tobytes() for part in parts)])).hexdigest()
