"""Devices as the API and the pages show them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.devices import queries
from service.devices.schemas import DeviceOut, LatencyModelOut, RefitOut
from service.devices.stale import warn_if_stale
from service.storage.tables import Device, LatencyModelRow, LatencyRefit
from service.web.schemas import Page


def show_devices(session: Session, devices: Sequence[Device]) -> list[DeviceOut]:
    """Devices with their newest latency models."""
    names = [device.name for device in devices]
    latency_models = queries.list_latest_models(session, devices=names)
    refits = queries.list_refits(session, names)
    return [
        _show_device(
            device,
            [model for model in latency_models if model.device == device.name],
            [refit for refit in refits if refit.device == device.name],
        )
        for device in devices
    ]


def _show_device(
    device: Device, latency_models: Sequence[LatencyModelRow], refits: Sequence[LatencyRefit]
) -> DeviceOut:
    warnings = [warning for model in latency_models if (warning := warn_if_stale(device, model))]
    return DeviceOut(
        name=device.name,
        runtime=device.runtime,
        threads=device.threads,
        batch_size=device.batch_size,
        latency_models=[LatencyModelOut.model_validate(model) for model in latency_models],
        refits=[RefitOut.model_validate(refit) for refit in refits],
        seen_at=device.seen_at,
        warning=warnings[0] if warnings else None,
        created_at=device.created_at,
    )


def get_device(session: Session, name: str) -> DeviceOut:
    """One device. Raises NotFoundError."""
    return show_devices(session, [queries.get(session, name)])[0]


def list_devices(
    session: Session, limit: int, cursor: str | None = None, supernet_id: str | None = None
) -> Page[DeviceOut]:
    """One page of devices by name. supernet_id: only devices with a latency model for its search space."""
    rows, following = queries.page(session, limit, cursor, supernet_id)
    return Page(items=show_devices(session, rows), next=following)


def list_all_devices(session: Session) -> list[DeviceOut]:
    """All devices by name."""
    return show_devices(session, queries.list_all(session))
