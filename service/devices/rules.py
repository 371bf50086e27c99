"""Registering devices, and turning measurements into latency models."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.costs import CostTables
from evolution.latency import LatencyModel
from service import models
from service.devices import queries
from service.devices.schemas import DeviceIn, DeviceOut, LatencyModelOut, MeasurementsIn
from service.errors import ConflictError, InvalidError
from service.models import new_id
from service.schemas import Page
from service.store import Store
from supernet.space import Architecture

FIT_SEED = 0  # of the split into folds when a latency model's error is estimated


def register(session: Session, body: DeviceIn) -> DeviceOut:
    """Write a device. Doing so again with the same settings changes nothing.

    Raises:
        ConflictError: a device of this name has other settings, which its measurements depend on.
    """
    device = queries.add(session, body.model_dump())
    for field, asked in body.model_dump().items():
        if (stored := getattr(device, field)) != asked:
            raise ConflictError(
                f"device {body.name!r} has {field} {stored!r}, not {asked!r}; its measurements depend on that, "
                "so register another name"
            )
    return describe(device, queries.latest_models(session, devices=[device.name]))


def describe(device: models.Device, latency_models: Sequence[models.LatencyModel]) -> DeviceOut:
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


def register_published(
    session: Session, store: Store, name: str, published: Mapping[str, Any], tables: CostTables
) -> None:
    """Register a device that came in a bundle, with its latency model as a new version.

    Doing so again changes nothing: a model measured since then stays the newest.

    Raises:
        InvalidError: not what a bundle keeps of a device. ConflictError: a device of this name has other settings.
    """
    try:
        settings = {field: published[field] for field in ("runtime", "threads", "batch_size")}
        body = DeviceIn.model_validate({"name": name, **settings})
        model = LatencyModel.from_json(published["latency_model"], tables)
    except (KeyError, ValueError) as error:
        raise InvalidError(f"the bundle's device {name!r} cannot be read: {error}") from error
    try:
        register(session, body)
    except ConflictError as error:
        raise ConflictError(f"{error}: import the latency tables again with another --device") from error
    queries.lock(session, name)
    artifact = store.put(json.dumps(model.to_json(), sort_keys=True).encode())
    space_hash = tables.space.hash
    if queries.has_model(session, name, space_hash, artifact):
        return
    row = models.LatencyModel(
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
    queries.add_model(session, row, [], [])


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


def check(device: models.Device, body: MeasurementsIn) -> None:
    """Refuse measurements that were not made as the device is used.

    Raises:
        ConflictError: naming the setting and both values.
    """
    for field in ("threads", "batch_size"):
        if (stored := getattr(device, field)) != (measured := getattr(body, field)):
            raise ConflictError(
                f"measured with {field} {measured}; device {device.name!r} has {stored}. "
                "Measure again, or register another device"
            )


def fit(tables: CostTables, body: MeasurementsIn) -> LatencyModel:
    """A latency model of what was measured.

    Raises:
        ValueError: an architecture outside the space, too few networks, a network with a block that was not measured.
    """
    genomes = [tables.space.encode(Architecture.from_json(network.architecture)) for network in body.networks]
    measured_ms = np.array([network.ms for network in body.networks])
    stacked = np.array(genomes, np.int8).reshape(len(genomes), tables.space.num_genes)
    return LatencyModel.fit(tables, body.blocks, stacked, measured_ms, np.random.default_rng(FIT_SEED))


def add_model(session: Session, store: Store, name: str, body: MeasurementsIn, model: LatencyModel) -> LatencyModelOut:
    """Store a fitted latency model as the device's newest version, and all that was measured.

    The very measurements that the newest version was fitted on make no other version: that one is returned.
    """
    artifact = store.put(body.model_dump_json().encode())
    device = queries.lock(session, name)
    check(device, body)
    for newest in queries.latest_models(session, devices=[name], space_hash=body.space_hash):
        if newest.measurements == artifact:
            return LatencyModelOut.model_validate(newest)
    row = models.LatencyModel(
        id=new_id(),
        device=name,
        space_hash=body.space_hash,
        version=queries.next_version(session, name, body.space_hash),
        model=model.to_json(),
        card=dict(model.card),
        host=body.host,
        reference_ms=body.reference_ms,
        measurements=artifact,
    )
    blocks = [
        models.BlockMeasurement(latency_model_id=row.id, block_key=key, measured_ms=ms)
        for key, ms in body.blocks.items()
    ]
    networks = [
        models.NetworkMeasurement(
            latency_model_id=row.id, number=number, architecture=network.architecture, measured_ms=network.ms
        )
        for number, network in enumerate(body.networks)
    ]
    return LatencyModelOut.model_validate(queries.add_model(session, row, blocks, networks))
