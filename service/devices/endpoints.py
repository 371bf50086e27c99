"""/v1/devices, and the probe that measures them."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.openapi.models import Example
from fastapi.responses import FileResponse

from service.devices import measurements, queries, register, show
from service.devices.schemas import DeviceIn, DeviceOut, LatencyModelOut, MeasurementsIn
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(tags=["devices"])
EXAMPLES: dict[str, Example] = {
    "phone": {
        "summary": "A phone that runs one image at a time in one thread",
        "value": {"name": "phone", "runtime": "onnxruntime on CPU", "threads": 1},
    }
}
PROBE = Path(__file__).with_name("probe.py")


@router.post(
    "/devices",
    dependencies=[needs("device")],
    status_code=201,
    summary="Register a device",
    responses={409: {"description": "A device of this name has other settings."}},
)
def register_device(
    body: Annotated[DeviceIn, Body(openapi_examples=EXAMPLES)], context: ContextOf, response: Response
) -> DeviceOut:
    """Register a device. Measure it next: a search needs its latency model."""
    with context.database.writing() as session:
        device = register.register_device(session, body)
    response.headers["Location"] = f"/v1/devices/{device.name}"
    return device


@router.get("/devices", dependencies=[needs("read")], summary="List devices")
def list_devices(
    context: ContextOf,
    supernet: Annotated[
        Id | None, Query(description="Only devices that have a latency model for this supernet's search space.")
    ] = None,
    limit: PageSize = 20,
    cursor: Cursor = None,
) -> Page[DeviceOut]:
    """Devices by name."""
    with context.database.reading() as session:
        return show.list_devices(session, limit, cursor, supernet)


@router.get("/devices/{name}", dependencies=[needs("read")], summary="Get a device")
def get_device(name: Id, context: ContextOf) -> DeviceOut:
    """One device, with the error of its latency models."""
    with context.database.reading() as session:
        return show.get_device(session, name)


@router.post(
    "/devices/{name}/measurements",
    dependencies=[needs("device")],
    status_code=201,
    summary="Add measurements",
    responses={
        409: {"description": "They were measured with other settings than the device's."},
        507: {"description": "The artifact store is full."},
    },
)
def add_measurements(name: Id, body: MeasurementsIn, context: ContextOf) -> LatencyModelOut:
    """Store a probe's measurements and fit a latency model, which becomes the device's newest for the search space."""
    with context.database.reading() as session:
        measurements.check(queries.get(session, name), body)
        tables = context.tables(queries.get_supernet_of_space(session, body.space_hash))
        rows = queries.list_latest_models(session, space_hash=body.space_hash)
    models = {row.device: context.latency_model(row, tables) for row in rows}
    own = models.pop(name, None)
    measurements.check_plausible(tables, body, [own] if own else [])
    model = measurements.fit(tables, body, models)
    with context.database.writing() as session:
        return measurements.add_model(session, context.store, name, body, model)


@router.head("/probe.py", dependencies=[needs("read")], include_in_schema=False)
@router.get("/probe.py", dependencies=[needs("read")], summary="Download the probe", response_class=FileResponse)
def download_probe() -> FileResponse:
    """The device probe: one Python file that needs numpy and one runtime, such as onnxruntime."""
    return FileResponse(PROBE, media_type="text/x-python", filename=PROBE.name)
