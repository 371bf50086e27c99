"""/v1/supernets."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example
from fastapi.responses import FileResponse, JSONResponse

from service.supernets import plans, queries, register, show
from service.supernets.schemas import SupernetDetail, SupernetIn, SupernetOut
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.files import ArtifactResponse
from service.web.schemas import Cursor, Hash, Id, Page, PageSize, Text

router = APIRouter(prefix="/supernets", tags=["supernets"])
EXAMPLES: dict[str, Example] = {
    "stored": {
        "summary": "A bundle that `supple register` copied into the store, by its hash",
        "value": {"bundle_hash": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"},
    }
}


@router.post(
    "",
    dependencies=[needs("admin")],
    status_code=201,
    summary="Register a supernet",
    responses={
        404: {"description": "The store has no such bundle."},
        507: {"description": "The artifact store is full."},
    },
)
def register_supernet(
    body: Annotated[SupernetIn, Body(openapi_examples=EXAMPLES)], context: ContextOf, response: Response
) -> SupernetDetail:
    """Register a bundle that lies in the store. `supple register` copies a bundle there and registers it."""
    with context.database.writing() as session:
        supernet = register.register_stored_bundle(session, context.store, body.bundle_hash)
    response.headers["Location"] = f"/v1/supernets/{supernet.id}"
    return supernet


@router.get("", dependencies=[needs("read")], summary="List supernets")
def list_supernets(
    context: ContextOf,
    name: Annotated[Text | None, Query(description="Only supernets of this name.", max_length=200)] = None,
    space_hash: Annotated[Hash | None, Query(description="Only supernets of this search space.")] = None,
    limit: PageSize = 20,
    cursor: Cursor = None,
) -> Page[SupernetOut]:
    """Registered supernets, newest first."""
    with context.database.reading() as session:
        return show.list_supernets(session, limit, cursor, name=name, space_hash=space_hash)


@router.get("/{supernet_id}", dependencies=[needs("read")], summary="Get a supernet")
def get_supernet(supernet_id: Id, context: ContextOf) -> SupernetDetail:
    """One supernet: its search space, its origin and the accuracies of its subnets."""
    with context.database.reading() as session:
        return show.get_supernet(session, supernet_id)


@router.get(
    "/{supernet_id}/plan",
    dependencies=[needs("read")],
    summary="Download a plan of what a device measures",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        202: {"description": "A worker is building the plan. Repeat the request after Retry-After seconds."},
        500: {"description": "The plan could not be built. The next request has it built again."},
    },
)
def download_plan(
    supernet_id: Id,
    context: ContextOf,
    networks: Annotated[
        int, Query(ge=0, le=1_000, description="So many whole networks alone; 0: blocks and some networks.")
    ] = 0,
) -> Response:
    """A zip file of ONNX files for the device probe. The first request has it built.

    If that fails, one request is answered with the reason, and the next one has it built again.
    """
    with context.database.reading() as session:
        supernet = queries.get(session, supernet_id)
        plan = queries.get_plan(session, supernet.space_hash, networks, plans.VERSION)
    if plan is None or plan.sha256 is None:
        with context.database.writing() as session:
            failure = plans.take_failure(session, supernet_id, networks)
        if failure is not None:
            raise failure
        with context.database.writing() as session:
            plan = plans.request_plan(session, context.jobs, supernet_id, networks)
    if plan.sha256 is None:
        where = f"/v1/supernets/{supernet_id}/plan?networks={networks}"
        return JSONResponse(
            {"status": plan.status, "plan": where}, status_code=202, headers={"Location": where, "Retry-After": "1"}
        )
    headers = {"ETag": f'"{plan.sha256}"', "Cache-Control": "private, max-age=3600"}
    path = context.store.path(plan.sha256)
    return ArtifactResponse(path, headers=headers, media_type="application/zip", filename=f"plan-{supernet_id}.zip")
