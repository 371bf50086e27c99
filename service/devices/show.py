"""Devices as the API and the pages show them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.devices import queries
from service.devices.schemas import DeviceOut, LatencyModelOut
from service.storage.tables import Device, LatencyModelRow
from service.web.schemas import Page


def show_device(device: Device, latency_models: Sequence[LatencyModelRow]) -> DeviceOut:
    """A device with its latency models. latency_models: may hold other devices' too."""
    own = [LatencyModelOut.model_validate(model) for model in latency_models if model.device == device.name]
    return DeviceOut(
        name=device.name,
        runtime=device.runtime,
        threads=device.threads,
        batch_size=device.batch_size,
        latency_models=own,
        created_at=device.created_at,
    )


def get_device(session: Session, name: str) -> DeviceOut:
    """One device. Raises NotFoundError."""
    return show_device(queries.get(session, name), queries.list_latest_models(session, devices=[name]))


def list_devices(session: Session, limit: int, cursor: str | None = None) -> Page[DeviceOut]:
    """One page of devices by name."""
    rows, following = queries.page(session, limit, cursor)
    latency_models = queries.list_latest_models(session, devices=[row.name for row in rows])
    return Page(items=[show_device(row, latency_models) for row in rows], next=following)


def list_all_devices(session: Session) -> list[DeviceOut]:
    """All devices by name."""
    latency_models = queries.list_latest_models(session)
    return [show_device(row, latency_models) for row in queries.list_all(session)]
