"""A device as the API shows it."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.devices import queries
from service.devices.schemas import DeviceOut, LatencyModelOut
from service.storage.tables import Device, LatencyModelRow
from service.web.schemas import Page


def describe(device: Device, latency_models: Sequence[LatencyModelRow]) -> DeviceOut:
    """A device with those of the given latency models that are its own."""
    own = [LatencyModelOut.model_validate(model) for model in latency_models if model.device == device.name]
    return DeviceOut(
        name=device.name,
        runtime=device.runtime,
        threads=device.threads,
        batch_size=device.batch_size,
        latency_models=own,
        created_at=device.created_at,
    )


def every(session: Session) -> list[DeviceOut]:
    """All devices by name."""
    latency_models = queries.latest_models(session)
    return [describe(device, latency_models) for device in queries.every(session)]


def page(session: Session, limit: int, cursor: str | None) -> Page[DeviceOut]:
    """Devices by name, those after the cursor."""
    found, following = queries.page(session, limit, cursor)
    latency_models = queries.latest_models(session, devices=[device.name for device in found])
    return Page(items=[describe(device, latency_models) for device in found], next=following)


def one(session: Session, name: str) -> DeviceOut:
    """One device. Raises NotFoundError."""
    return describe(queries.get(session, name), queries.latest_models(session, devices=[name]))
