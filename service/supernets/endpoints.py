"""/v1/supernets."""

from fastapi import APIRouter, Response

from service.supernets import register, show
from service.supernets.schemas import SupernetDetail, SupernetIn, SupernetOut
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(prefix="/supernets", tags=["supernets"])


@router.post(
    "",
    status_code=201,
    summary="Register a supernet",
    responses={
        404: {"description": "The store has no such bundle."},
        507: {"description": "The artifact store is full."},
    },
)
def register_supernet(body: SupernetIn, context: ContextOf, response: Response) -> SupernetDetail:
    """Register a bundle that lies in the store. `supple register` copies a bundle there and registers it."""
    with context.database.writing() as session:
        supernet = register.register_stored_bundle(session, context.store, body.bundle_hash)
    response.headers["Location"] = f"/v1/supernets/{supernet.id}"
    return supernet


@router.get("", summary="List supernets")
def list_supernets(context: ContextOf, limit: PageSize = 20, cursor: Cursor = None) -> Page[SupernetOut]:
    """All registered supernets, newest first."""
    with context.database.reading() as session:
        return show.list_supernets(session, limit, cursor)


@router.get("/{supernet_id}", summary="Get a supernet")
def get_supernet(supernet_id: Id, context: ContextOf) -> SupernetDetail:
    """One supernet: its search space, its origin and the accuracies of its subnets."""
    with context.database.reading() as session:
        return show.get_supernet(session, supernet_id)
