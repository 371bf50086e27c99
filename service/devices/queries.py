"""Reading and writing devices and latency models."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import BlockMeasurement, Device, LatencyModelRow, NetworkMeasurement, Supernet


def find(session: Session, name: str) -> Device | None:
    """A device, or None."""
    return session.get(Device, name)


def get(session: Session, name: str) -> Device:
    """A device.

    Raises:
        NotFoundError: there is none of this name; the message lists those that are.
    """
    device = find(session, name)
    if device is None:
        known = ", ".join(session.scalars(select(Device.name).order_by(Device.name).limit(20))) or "none yet"
        raise NotFoundError(f"there is no device {name!r}; registered devices: {known}")
    return device


def lock(session: Session, name: str) -> Device:
    """A device, which no other transaction changes until this one ends. Raises what `get` does."""
    get(session, name)
    return session.get_one(Device, name, with_for_update=True)


def every(session: Session) -> list[Device]:
    """All devices by name."""
    return list(session.scalars(select(Device).order_by(Device.name)))


def page(session: Session, limit: int, cursor: str | None) -> tuple[list[Device], str | None]:
    """Devices by name, those after the name given as cursor, and the cursor for those that follow."""
    wanted = select(Device).order_by(Device.name).limit(limit + 1)
    found = list(session.scalars(wanted if cursor is None else wanted.where(Device.name > cursor)))
    return found[:limit], found[limit - 1].name if len(found) > limit else None


def add(session: Session, values: dict[str, Any]) -> Device:
    """The device of this name: a new one with these values, unless it is there already."""
    insert_missing(session, Device, [values])
    return get(session, values["name"])


def get_supernet_of_space(session: Session, space_hash: str) -> Supernet:
    """Some supernet over a search space.

    Raises:
        NotFoundError: none is.
    """
    supernet = session.scalars(select(Supernet).where(Supernet.space_hash == space_hash).limit(1)).first()
    if supernet is None:
        raise NotFoundError(f"no registered supernet has the search space {space_hash[:16]}; register its bundle first")
    return supernet


def latest_models(
    session: Session, *, devices: Sequence[str] | None = None, space_hash: str | None = None
) -> list[LatencyModelRow]:
    """The newest latency model for each device and space, of the given ones only where given."""
    newest = select(
        LatencyModelRow.device, LatencyModelRow.space_hash, func.max(LatencyModelRow.version).label("version")
    ).group_by(LatencyModelRow.device, LatencyModelRow.space_hash)
    if devices is not None:
        newest = newest.where(LatencyModelRow.device.in_(devices))
    if space_hash is not None:
        newest = newest.where(LatencyModelRow.space_hash == space_hash)
    wanted = newest.subquery()
    same = (
        (LatencyModelRow.device == wanted.c.device)
        & (LatencyModelRow.space_hash == wanted.c.space_hash)
        & (LatencyModelRow.version == wanted.c.version)
    )
    order = LatencyModelRow.device, LatencyModelRow.space_hash
    return list(session.scalars(select(LatencyModelRow).join(wanted, same).order_by(*order)))


def models_for(session: Session, names: Sequence[str], space_hash: str) -> dict[str, LatencyModelRow]:
    """The newest latency model of each named device for a space, by device.

    Raises:
        NotFoundError: no such device. InvalidError: it was not measured for this space.
    """
    models = {model.device: model for model in latest_models(session, devices=names, space_hash=space_hash)}
    for name in names:
        get(session, name)
        if name not in models:
            raise InvalidError(
                f"device {name!r} has no latency model for this supernet's search space; measure it with `supple probe`"
            )
    return models


def models_by_id(session: Session, ids: Sequence[str]) -> list[LatencyModelRow]:
    """Latency models."""
    return list(session.scalars(select(LatencyModelRow).where(LatencyModelRow.id.in_(ids))))


def has_model(session: Session, device: str, space_hash: str, measurements: str) -> bool:
    """Whether a device has a latency model for a space, of any version, made from this artifact."""
    wanted = select(LatencyModelRow.id).where(
        LatencyModelRow.device == device,
        LatencyModelRow.space_hash == space_hash,
        LatencyModelRow.measurements == measurements,
    )
    return session.scalar(wanted.limit(1)) is not None


def next_version(session: Session, device: str, space_hash: str) -> int:
    """The version that a new latency model gets. Call it with the device locked."""
    newest = select(func.max(LatencyModelRow.version)).where(
        LatencyModelRow.device == device, LatencyModelRow.space_hash == space_hash
    )
    return (session.scalar(newest) or 0) + 1


def add_model(
    session: Session,
    model: LatencyModelRow,
    blocks: Sequence[BlockMeasurement],
    networks: Sequence[NetworkMeasurement],
) -> LatencyModelRow:
    """Write a latency model and what it was fitted on."""
    session.add(model)
    session.flush()
    session.add_all(blocks)
    session.add_all(networks)
    session.flush()
    return model
