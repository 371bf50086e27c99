"""/v1/devices, and the probe that measures them."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from service.devices import queries, show
from service.devices import register as rules
from service.devices.measurements import MeasurementsIn, add_model, check, fit
from service.devices.schemas import DeviceIn, DeviceOut, LatencyModelOut
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(tags=["devices"])
PROBE = Path(__file__).with_name("probe.py")


@router.post("/devices", status_code=201, responses={409: {"description": "A device of this name has other settings."}})
def register(body: DeviceIn, context: ContextOf, response: Response) -> DeviceOut:
    """Register a device. Measure it next: a search needs its latency model."""
    with context.database.writing() as session:
        device = rules.register(session, body)
    response.headers["Location"] = f"/v1/devices/{device.name}"
    return device


@router.get("/devices")
def every(context: ContextOf, limit: PageSize = 20, cursor: Cursor = None) -> Page[DeviceOut]:
    """All devices by name."""
    with context.database.reading() as session:
        return show.page(session, limit, cursor)


@router.get("/devices/{name}")
def one(name: Id, context: ContextOf) -> DeviceOut:
    """One device, with the error of its latency models."""
    with context.database.reading() as session:
        return show.one(session, name)


@router.post(
    "/devices/{name}/measurements",
    status_code=201,
    responses={
        409: {"description": "They were not measured as the device is used."},
        507: {"description": "The artifact store is full."},
    },
)
def measured(name: Id, body: MeasurementsIn, context: ContextOf) -> LatencyModelOut:
    """Store what a probe measured and fit a latency model, the device's newest for this search space."""
    with context.database.reading() as session:
        check(queries.get(session, name), body)
        tables = context.loaded(queries.get_supernet_of_space(session, body.space_hash)).tables
    model = fit(tables, body)
    with context.database.writing() as session:
        return add_model(session, context.store, name, body, model)


@router.head("/probe.py", include_in_schema=False)
@router.get("/probe.py", response_class=FileResponse)
def probe() -> FileResponse:
    """The device probe: one Python file that needs numpy and onnxruntime only."""
    return FileResponse(PROBE, media_type="text/x-python", filename=PROBE.name)
