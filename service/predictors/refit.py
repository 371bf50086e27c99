"""Whether a supernet's accuracy predictor can be fitted again, whether that is due, and requesting it.

Verified candidates are pairs of an architecture and its accuracy. They lie where searches end, where the predictor
matters most.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from evolution.predictors.pairs import MeasuredPairs
from service.candidates import queries as candidates
from service.context import Context
from service.errors import ConflictError, InvalidError
from service.jobs.queue import Priority
from service.predictors import queries
from service.predictors.pairs import NO_PAIRS, measured_pairs
from service.storage.tables import PredictorRefit, Supernet
from service.supernets import queries as supernets
from supernet.bundle import PAIRS

LEAST_NEW = 20  # pairs since the last fit that make a refit due, and at least this share of its pairs:
LEAST_SHARE = 0.1
MOST_PAIRS = 2_000  # in a fit, which takes time by the cube of their number; the newest stay out


@dataclass(frozen=True)
class Standing:
    """How a supernet's predictor stands. fitted: its pairs; measured: verified candidates that are none of them.

    waiting: the measured ones that no refit has tried yet. needed: how many of those make a refit due.
    """

    fitted: MeasuredPairs
    measured: MeasuredPairs
    waiting: int
    needed: int

    @property
    def is_due(self) -> bool:
        """Whether a refit is due."""
        return self.waiting >= self.needed


def why_not_refittable(supernet: Supernet) -> str | None:
    """Why a supernet's predictor cannot be fitted again, and what to do; None if it can."""
    if PAIRS not in supernet.manifest["files"] or supernet.predictor_version is None:
        return f"supernet {supernet.id} ({supernet.name}) {NO_PAIRS}; run `supple fit` on its bundle and register it"
    return None


def standing(session: Session, context: Context, supernet: Supernet) -> Standing:
    """How the predictor of a supernet stands.

    Raises:
        InvalidError: it cannot be fitted again.
    """
    if reason := why_not_refittable(supernet):
        raise InvalidError(reason)
    space = context.tables(supernet).space
    row = queries.version(session, supernet.id, supernet.predictor_version)
    store = context.store
    path = store.bundle_file(supernet.bundle_hash, PAIRS) if row is None else store.path(row.pairs)
    fitted = MeasuredPairs.load(path, space)
    scored = candidates.evaluations(session, supernet)
    measured = measured_pairs(space, scored).without(fitted) if scored else fitted[:0]
    tried = [
        refit.new_pairs or 0
        for refit in queries.refits(session, supernet.id)
        if refit.status == "done" and refit.old_version == supernet.predictor_version and refit.new_version is None
    ]
    needed = max(LEAST_NEW, round(LEAST_SHARE * len(fitted)))
    return Standing(fitted, measured, len(measured) - max(tried, default=0), needed)


def request_refit(session: Session, context: Context, supernet_id: str) -> PredictorRefit:
    """Have a worker fit the predictor again, however few pairs are new.

    Raises:
        NotFoundError: no such supernet. InvalidError: it cannot be fitted again. ConflictError: nothing was verified
            since the last fit.
    """
    supernet = supernets.lock(session, supernet_id)
    if refit := _unfinished(session, supernet):
        return refit
    if not standing(session, context, supernet).waiting:
        raise ConflictError(
            f"no candidate of supernet {supernet_id} was verified since its predictor was last fitted; POST a search "
            'with `verify: true` or `evaluate: "inherited"` first'
        )
    return _enqueue(session, context, supernet)


def request_if_due(session: Session, context: Context, supernet_id: str) -> None:
    """Have a worker fit the predictor again if enough candidates were verified since the last fit."""
    supernet = supernets.lock(session, supernet_id)
    if why_not_refittable(supernet) is not None or _unfinished(session, supernet) is not None:
        return
    if standing(session, context, supernet).is_due:
        _enqueue(session, context, supernet)


def _unfinished(session: Session, supernet: Supernet) -> PredictorRefit | None:
    rows = (refit for refit in queries.refits(session, supernet.id) if refit.status in queries.UNFINISHED)
    return next(rows, None)


def _enqueue(session: Session, context: Context, supernet: Supernet) -> PredictorRefit:
    values = {"supernet_id": supernet.id, "old_version": supernet.predictor_version, "status": "queued"}
    refit = queries.add_refit(session, PredictorRefit(**values))
    context.jobs.enqueue(session, "refit_predictor", refit.id, job_id=f"refit-{refit.id}", priority=Priority.REFIT)
    return refit
