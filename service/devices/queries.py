"""Queries of devices and latency models."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import Device, LatencyModelRow, LatencyRefit, Supernet


def get(session: Session, name: str) -> Device:
    """A device.

    Raises:
        NotFoundError: no device has this name; the message lists the registered ones.
    """
    device = session.get(Device, name)
    if device is None:
        names = ", ".join(session.scalars(select(Device.name).order_by(Device.name).limit(20))) or "none yet"
        raise NotFoundError(f"there is no device {name!r}; registered devices: {names}")
    return device


def by_names(session: Session, names: Collection[str]) -> dict[str, Device]:
    """Devices by name. Raises what `get` does, for any of the names."""
    devices = {device.name: device for device in session.scalars(select(Device).where(Device.name.in_(names)))}
    for name in names:
        if name not in devices:
            get(session, name)
    return devices


def lock(session: Session, name: str) -> Device:
    """A device, with its row locked until this transaction ends. Raises the errors of `get`."""
    get(session, name)
    return session.get_one(Device, name, with_for_update=True)


def list_all(session: Session) -> list[Device]:
    """All devices by name."""
    return list(session.scalars(select(Device).order_by(Device.name)))


def page(
    session: Session, limit: int, cursor: str | None, supernet_id: str | None = None
) -> tuple[list[Device], str | None]:
    """One page of devices by name, and the cursor of the next page.

    cursor: the last name of the previous page. supernet_id: only devices with a latency model for its search space.
    """
    query = select(Device).order_by(Device.name).limit(limit + 1)
    if supernet_id is not None:
        space = select(Supernet.space_hash).where(Supernet.id == supernet_id).scalar_subquery()
        measured = select(LatencyModelRow.id).where(
            LatencyModelRow.device == Device.name, LatencyModelRow.space_hash == space
        )
        query = query.where(measured.exists())
    rows = list(session.scalars(query if cursor is None else query.where(Device.name > cursor)))
    return rows[:limit], rows[limit - 1].name if len(rows) > limit else None


def add(session: Session, values: dict[str, Any]) -> Device:
    """Add a device with these values, unless its name is registered. Returns the device of this name."""
    insert_missing(session, Device, [values])
    return get(session, values["name"])


def get_supernet_of_space(session: Session, space_hash: str) -> Supernet:
    """Any supernet with this search space.

    Raises:
        NotFoundError: no supernet has it.
    """
    supernet = session.scalars(select(Supernet).where(Supernet.space_hash == space_hash).limit(1)).first()
    if supernet is None:
        raise NotFoundError(f"no registered supernet has the search space {space_hash[:16]}; register its bundle first")
    return supernet


def list_latest_models(
    session: Session, *, devices: Sequence[str] | None = None, space_hash: str | None = None
) -> list[LatencyModelRow]:
    """The newest latency model of each device and search space, restricted to `devices` and `space_hash` if given."""
    newest = select(
        LatencyModelRow.device, LatencyModelRow.space_hash, func.max(LatencyModelRow.version).label("version")
    ).group_by(LatencyModelRow.device, LatencyModelRow.space_hash)
    if devices is not None:
        newest = newest.where(LatencyModelRow.device.in_(devices))
    if space_hash is not None:
        newest = newest.where(LatencyModelRow.space_hash == space_hash)
    newest_versions = newest.subquery()
    same = (
        (LatencyModelRow.device == newest_versions.c.device)
        & (LatencyModelRow.space_hash == newest_versions.c.space_hash)
        & (LatencyModelRow.version == newest_versions.c.version)
    )
    order = LatencyModelRow.device, LatencyModelRow.space_hash
    return list(session.scalars(select(LatencyModelRow).join(newest_versions, same).order_by(*order)))


def get_models(session: Session, names: Sequence[str], space_hash: str) -> dict[str, LatencyModelRow]:
    """The newest latency model of each named device for a search space, by device.

    Raises:
        NotFoundError: no device has this name.
        InvalidError: the device has no latency model for this search space.
    """
    models = {model.device: model for model in list_latest_models(session, devices=names, space_hash=space_hash)}
    by_names(session, names)  # raises for a name that is not registered
    for name in names:
        if name not in models:
            raise InvalidError(
                f"device {name!r} has no latency model for this supernet's search space; measure it with `supple probe`"
            )
    return models


def get_models_by_id(session: Session, ids: Sequence[str]) -> list[LatencyModelRow]:
    """The latency models with these ids."""
    return list(session.scalars(select(LatencyModelRow).where(LatencyModelRow.id.in_(ids))))


def has_model(session: Session, device: str, space_hash: str, measurements: str) -> bool:
    """Whether any version of a device's latency model for a search space was fitted on these measurements.

    measurements: SHA-256 of the artifact that holds them.
    """
    query = select(LatencyModelRow.id).where(
        LatencyModelRow.device == device,
        LatencyModelRow.space_hash == space_hash,
        LatencyModelRow.measurements == measurements,
    )
    return session.scalar(query.limit(1)) is not None


def next_version(session: Session, device: str, space_hash: str) -> int:
    """The version of the device's next latency model. Lock the device first."""
    newest = select(func.max(LatencyModelRow.version)).where(
        LatencyModelRow.device == device, LatencyModelRow.space_hash == space_hash
    )
    return (session.scalar(newest) or 0) + 1


def add_model(session: Session, model: LatencyModelRow) -> LatencyModelRow:
    """Add a latency model."""
    session.add(model)
    session.flush()
    return model


def add_refit(session: Session, refit: LatencyRefit) -> None:
    """Add what came of fitting a latency model anew."""
    session.add(refit)
    session.flush()


def list_refits(session: Session, names: Sequence[str]) -> list[LatencyRefit]:
    """What came of fitting the latency models of devices anew, newest first."""
    query = select(LatencyRefit).where(LatencyRefit.device.in_(names)).order_by(LatencyRefit.id.desc())
    return list(session.scalars(query))
