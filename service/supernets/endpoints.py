"""/v1/supernets."""

from fastapi import APIRouter, Response

from service.supernets import queries
from service.supernets import register as rules
from service.supernets.schemas import SupernetDetail, SupernetIn, SupernetOut
from service.supernets.show import detail, summary
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(prefix="/supernets", tags=["supernets"])


@router.post(
    "",
    status_code=201,
    responses={
        404: {"description": "The store has no such bundle."},
        507: {"description": "The artifact store is full."},
    },
)
def register(body: SupernetIn, context: ContextOf, response: Response) -> SupernetDetail:
    """Register a bundle that lies in the store; `supple register` puts one there and registers it."""
    with context.database.writing() as session:
        supernet = rules.register_stored(session, context.store, body.bundle_hash)
    response.headers["Location"] = f"/v1/supernets/{supernet.id}"
    return supernet


@router.get("")
def every(context: ContextOf, limit: PageSize = 20, cursor: Cursor = None) -> Page[SupernetOut]:
    """All registered supernets, newest first."""
    with context.database.reading() as session:
        found, following = queries.page(session, limit, cursor)
        return Page(items=[summary(supernet) for supernet in found], next=following)


@router.get("/{supernet_id}")
def one(supernet_id: Id, context: ContextOf) -> SupernetDetail:
    """One supernet: its search space, where it comes from and how good its subnets are."""
    with context.database.reading() as session:
        return detail(queries.get(session, supernet_id))
