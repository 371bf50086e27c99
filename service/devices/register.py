"""Registering devices, with published latency models where a bundle has them."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.devices import queries
from service.devices.schemas import DeviceIn, DeviceOut
from service.devices.show import show_devices
from service.errors import ConflictError, InvalidError
from service.storage.store import Store
from service.storage.tables import LatencyModelRow, new_id


def register_device(session: Session, body: DeviceIn) -> DeviceOut:
    """Register a device. Registering it again with the same settings changes nothing.

    Raises:
        ConflictError: a device of this name has other settings, which its measurements depend on.
    """
    device = queries.add(session, body.model_dump())
    for field, value in body.model_dump().items():
        if (stored := getattr(device, field)) != value:
            raise ConflictError(
                f"device {body.name!r} has {field} {stored!r}, not {value!r}; its measurements depend on that, "
                "so register another name"
            )
    return show_devices(session, [device])[0]


def register_published_device(
    session: Session, store: Store, name: str, published: Mapping[str, Any], tables: CostTables
) -> None:
    """Register a device from a bundle, with the bundle's latency model as a new version.

    Registering it again changes nothing, so that a latency model measured since stays the newest.

    Raises:
        InvalidError: the bundle's entry is malformed. ConflictError: a device of this name has other settings.
    """
    try:
        settings = {field: published[field] for field in ("runtime", "threads", "batch_size")}
        body = DeviceIn.model_validate({"name": name, **settings})
        model = LatencyModel.from_json(published["latency_model"], tables)
    except (KeyError, ValueError) as error:
        raise InvalidError(f"the bundle's device {name!r} cannot be read: {error}") from error
    try:
        register_device(session, body)
    except ConflictError as error:
        raise ConflictError(f"{error}: import the latency tables again with another --device") from error
    queries.lock(session, name)
    artifact = store.put(json.dumps(model.to_json(), sort_keys=True).encode())
    space_hash = tables.space.hash
    if queries.has_model(session, name, space_hash, artifact):
        return
    row = LatencyModelRow(
        id=new_id(),
        device=name,
        space_hash=space_hash,
        version=queries.next_version(session, name, space_hash),
        model=model.to_json(),
        card=dict(model.card),
        host={},
        reference_ms=None,
        measurements=artifact,
    )
    queries.add_model(session, row)
