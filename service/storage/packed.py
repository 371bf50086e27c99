"""Stored candidates packed into few rows, each of thousands, so that a new process reads a million in a moment.

Whoever writes predictions packs them in the same transaction, once enough of them are not packed. A pack never changes,
because predictions do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from service.storage.tables import AccuracyPrediction, Candidate, CandidatePack
from supernet.space import Genomes

LEAST = 4096  # predictions in a pack, of all supernets that share the predictor's version


@dataclass(frozen=True)
class Pack:
    """N candidates of one supernet. numbers: (N,) of their predictions, ascending. genomes: (N, G). accuracy: (N,)."""

    numbers: NDArray[np.int64]
    genomes: Genomes
    accuracy: Floats


def pack_predictions(session: Session, version: str) -> None:
    """Pack the predictions by a version of a predictor that are in no pack yet, if there are enough of them.

    No other transaction may write predictions of this version until this one ends.
    """
    start = packed_until(session, version)
    newest = select(func.max(AccuracyPrediction.number)).where(AccuracyPrediction.predictor_version == version)
    if (session.scalar(newest) or 0) - start < LEAST:
        return
    query = (
        select(
            Candidate.supernet_id, AccuracyPrediction.number, Candidate.genome, AccuracyPrediction.predicted_accuracy
        )
        .join(Candidate, Candidate.id == AccuracyPrediction.candidate_id)
        .where(AccuracyPrediction.predictor_version == version, AccuracyPrediction.number > start)
        .order_by(AccuracyPrediction.number)
    )
    rows = session.execute(query).all()
    packs = []
    for supernet_id in sorted({row.supernet_id for row in rows}):
        numbers, genomes, accuracy = zip(*(row[1:] for row in rows if row.supernet_id == supernet_id), strict=True)
        packs.append(
            {
                "predictor_version": version,
                "last": rows[-1].number,
                "supernet_id": supernet_id,
                "numbers": np.array(numbers, "<i8").tobytes(),
                "genomes": b"".join(genomes),
                "accuracy": np.array(accuracy, "<f8").tobytes(),
            }
        )
    session.execute(insert(CandidatePack), packs)


def packed_until(session: Session, version: str) -> int:
    """The largest number of a packed prediction. All predictions of this version up to it are packed; 0: none is."""
    newest = select(func.max(CandidatePack.last)).where(CandidatePack.predictor_version == version)
    return session.scalar(newest) or 0


def read_packs(session: Session, supernet_id: str, version: str, after: int, until: int) -> Iterator[Pack]:
    """The packed candidates of a supernet whose predictions have numbers above `after`, up to `until`, in order."""
    query = (
        select(CandidatePack.numbers, CandidatePack.genomes, CandidatePack.accuracy)
        .where(
            CandidatePack.predictor_version == version,
            CandidatePack.last > after,
            CandidatePack.last <= until,
            CandidatePack.supernet_id == supernet_id,
        )
        .order_by(CandidatePack.last)
        .execution_options(yield_per=16)
    )
    for row in session.execute(query):
        numbers = np.frombuffer(row.numbers, "<i8")
        new = int(np.searchsorted(numbers, after, side="right"))
        if new < len(numbers):
            genomes = np.frombuffer(row.genomes, np.int8).reshape(len(numbers), -1)
            yield Pack(numbers[new:], genomes[new:], np.frombuffer(row.accuracy, "<f8")[new:])
