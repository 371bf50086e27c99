"""Versions of accuracy predictors as the API and the pages show them."""

from sqlalchemy.orm import Session

from service.context import Context
from service.predictors import queries
from service.predictors.refit import standing, why_not_refittable
from service.predictors.schemas import PredictorsOut, PredictorVersionOut, RefitOut
from service.storage.tables import PredictorRefit, Supernet
from service.supernets import queries as supernets
from service.supernets.register import DIGITS
from supernet.bundle import PREDICTOR


def show_predictors(session: Session, context: Context, supernet_id: str) -> PredictorsOut:
    """The versions of a supernet's predictor, and how far the next refit is. Raises NotFoundError."""
    supernet = supernets.get(session, supernet_id)
    reason = why_not_refittable(supernet)
    stands = None if reason else standing(session, context, supernet)
    return PredictorsOut(
        versions=_versions(session, context, supernet),
        refits=[show_refit(refit) for refit in queries.refits(session, supernet_id)],
        pairs=len(stands.fitted) if stands else None,
        verified_since=stands.waiting if stands else None,
        refit_at=stands.needed if stands else None,
        reason=reason,
    )


def show_refit(refit: PredictorRefit) -> RefitOut:
    """A refit by itself."""
    return RefitOut.model_validate(refit)


def _versions(session: Session, context: Context, supernet: Supernet) -> list[PredictorVersionOut]:
    """All versions, newest first."""
    in_use = supernet.predictor_version
    versions = [
        PredictorVersionOut(
            version=row.version,
            origin="refit",
            in_use=row.version == in_use,
            card=row.card,
            created_at=row.created_at,
        )
        for row in queries.versions(session, supernet.id)
    ]
    if (file := supernet.manifest["files"].get(PREDICTOR)) is not None:
        own = str(file)[:DIGITS]
        card = dict(context.predictor(supernet, own).card)
        versions.append(
            PredictorVersionOut(
                version=own, origin="bundle", in_use=own == in_use, card=card, created_at=supernet.created_at
            )
        )
    return versions
