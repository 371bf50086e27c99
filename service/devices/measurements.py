"""Measurements of a device, and the latency model fitted on them."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError
from sqlalchemy.orm import Session

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.devices import queries
from service.devices.schemas import LatencyModelOut
from service.errors import ConflictError
from service.storage.store import Store
from service.storage.tables import BlockMeasurement, Device, LatencyModelRow, NetworkMeasurement, new_id
from service.web.schemas import Hash, PlainJson, Positive, Request, Text
from supernet.space import Architecture

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BlockKey = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class NetworkMeasured(Request):
    """A whole network's measured latency."""

    architecture: PlainJson
    ms: Positive


class MeasurementsIn(Request):
    """What `supple probe` measured, as it writes it."""

    format: int = Field(1, ge=1, le=1)
    space: Text = Field("", max_length=200, description="The search space's name, for people.")
    space_hash: Hash
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    host: PlainJson = Field(description="Fingerprint of the machine that measured.")
    seconds: float | None = Field(None, description="How long measuring took.")
    reference_ms: Positive | None = Field(
        None,
        description="The reference network measured in turns with all others: it ties later measurements to these.",
    )
    busy: FiniteFloat | None = Field(None, description="Fraction of the time in which other programs ran instead.")
    overhead_ms: FiniteFloat | None = Field(None, description="An empty network: the cost of a call.")
    blocks: dict[BlockKey, NotNegative] = Field(
        min_length=1, max_length=200_000, description="Latency by block key, ms."
    )
    networks: list[NetworkMeasured] = Field(max_length=20_000)
    measurements: PlainJson | None = Field(None, description="Raw: before any correction.")


FIT_SEED = 0  # of the split into folds when a latency model's error is estimated


def check(device: Device, body: MeasurementsIn) -> None:
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
    row = LatencyModelRow(
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
        BlockMeasurement(latency_model_id=row.id, block_key=key, measured_ms=ms) for key, ms in body.blocks.items()
    ]
    networks = [
        NetworkMeasurement(
            latency_model_id=row.id, number=number, architecture=network.architecture, measured_ms=network.ms
        )
        for number, network in enumerate(body.networks)
    ]
    return LatencyModelOut.model_validate(queries.add_model(session, row, blocks, networks))


def latency_model(tables: CostTables, measurements: Path) -> LatencyModel:
    """Fit the latency model of a device from the file that the probe wrote.

    Raises:
        ValueError: not such a file, of another space, or what no latency model can be fitted on. OSError: it cannot be
            read.
    """
    try:
        measured = MeasurementsIn.model_validate_json(measurements.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise ValueError(f"{measurements} is not what `supple probe` writes: {where}: {fault['msg']}") from error
    if measured.space_hash != tables.space.hash:
        raise ValueError(
            f"{measurements} measures space {measured.space_hash[:16]}, the bundle's is {tables.space.hash[:16]}; run "
            "`supple probe` on this bundle"
        )
    try:
        return fit(tables, measured)
    except ValueError as error:
        raise ValueError(f"{measurements} makes no latency model: {error}") from error
