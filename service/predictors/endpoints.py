"""/v1/supernets/{id}/predictors and /v1/supernets/{id}/refit."""

from fastapi import APIRouter, Response

from service.predictors import refit
from service.predictors.schemas import PredictorsOut, RefitOut
from service.predictors.show import show_predictors, show_refit
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.schemas import Id

router = APIRouter(prefix="/supernets", tags=["supernets"])


@router.get(
    "/{supernet_id}/predictors",
    dependencies=[needs("read")],
    summary="List the versions of a supernet's accuracy predictor",
)
def list_predictors(supernet_id: Id, context: ContextOf) -> PredictorsOut:
    """All versions with their errors, the refits that made them or were not kept, and how far the next refit is."""
    with context.database.reading() as session:
        return show_predictors(session, context, supernet_id)


@router.post(
    "/{supernet_id}/refit",
    dependencies=[needs("admin")],
    status_code=202,
    summary="Create a refit of a supernet's accuracy predictor",
    responses={
        409: {"description": "No candidate was verified since the last fit."},
        422: {"description": "The bundle lacks the pairs that its predictor was fitted on."},
    },
)
def refit_predictor(supernet_id: Id, context: ContextOf, response: Response) -> RefitOut:
    """Have a worker fit the predictor again with the candidates verified since the last fit.

    The new version is used if its error near the front, on held-out pairs, is no worse. A refit that waits or runs is
    returned as it is. Workers also do this by themselves once `refit_at` candidates were verified.
    """
    with context.database.writing() as session:
        requested = show_refit(refit.request_refit(session, context, supernet_id))
    response.headers["Location"] = f"/v1/supernets/{supernet_id}/predictors"
    return requested
