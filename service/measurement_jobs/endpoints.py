"""/v1/devices/{name}/jobs: measurement jobs, which probes claim."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from service.measurement_jobs import claims, queries, show
from service.measurement_jobs.schemas import ClaimedJobOut, ClaimIn, MeasurementJobOut, RenewIn, ResultsIn
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.files import ArtifactResponse
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(prefix="/devices/{name}/jobs", tags=["devices"])
RETRY_SECONDS = 5  # before a probe asks again
LOST: dict[int | str, dict[str, Any]] = {409: {"description": "The claim does not hold the job any more."}}


@router.get("", dependencies=[needs("read")], summary="List measurement jobs")
def list_jobs(name: Id, context: ContextOf, limit: PageSize = 20, cursor: Cursor = None) -> Page[MeasurementJobOut]:
    """A device's measurement jobs, newest first."""
    with context.database.reading() as session:
        return show.list_jobs(session, name, limit, cursor)


@router.post(
    "/claim",
    dependencies=[needs("device")],
    summary="Claim a measurement job",
    response_model=ClaimedJobOut,
    responses={
        204: {"description": "There is no job. Ask again after Retry-After seconds."},
        409: {"description": "The device was measured on another machine or with another runtime."},
    },
)
def claim_job(name: Id, body: ClaimIn, context: ContextOf) -> ClaimedJobOut | Response:
    """Claim the device's oldest job that no probe holds. A claim that is not renewed expires."""
    with context.database.writing() as session:
        claims.note_probe(session, name, body.host)
    with context.database.writing() as session:
        job = claims.claim_job(session, context.jobs, name, body.host, body.probe)
        if job is not None:
            return show.show_claimed_job(session, job)
    return Response(status_code=204, headers={"Retry-After": str(RETRY_SECONDS)})


@router.get(
    "/{job_id}/plan",
    dependencies=[needs("device")],
    summary="Download the plan of a measurement job",
    response_class=FileResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def download_plan(name: Id, job_id: Id, context: ContextOf) -> Response:
    """The plan that a job measures: a zip file with the finalists and the reference networks as ONNX."""
    with context.database.reading() as session:
        digest = queries.get(session, name, job_id).plan
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return ArtifactResponse(
        context.store.path(digest), headers=headers, media_type="application/zip", filename=f"plan-{job_id}.zip"
    )


@router.post("/{job_id}/renew", dependencies=[needs("device")], summary="Renew a claim", responses=LOST)
def renew_claim(name: Id, job_id: Id, body: RenewIn, context: ContextOf) -> MeasurementJobOut:
    """Keep a job while it is being measured."""
    with context.database.writing() as session:
        return show.show_job(session, claims.renew_claim(session, name, job_id, body.claim))


@router.post(
    "/{job_id}/results",
    dependencies=[needs("device")],
    summary="Add the results of a measurement job",
    responses={**LOST, 507: {"description": "The artifact store is full."}},
)
def add_results(name: Id, job_id: Id, body: ResultsIn, context: ContextOf) -> MeasurementJobOut:
    """End a job with its result, or with the reason why there is none. Its search then goes on."""
    with context.database.writing() as session:
        job = claims.finish_job(session, context.store, name, job_id, body.claim, body.result, body.error)
        claims.continue_search(session, context.jobs, job)
        return show.show_job(session, job)
