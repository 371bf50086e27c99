"""A device's measurements: check them, fit models of latency, memory and energy, store all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.costs import DEVICE_COSTS, CostTables
from evolution.predictors.device_cost import DeviceCostModel
from evolution.predictors.latency import LatencyModel
from service.devices import plausible, queries
from service.devices.schemas import LatencyModelOut, MeasurementsIn, NetworkMeasured
from service.errors import ConflictError
from service.storage.store import Store
from service.storage.tables import Device, LatencyModelRow, new_id
from supernet.space import Architecture, Genomes

FIT_SEED = 0  # draws the folds of the cross-validation that estimates a latency model's error


def check(device: Device, body: MeasurementsIn) -> None:
    """Refuse measurements with other settings than the device's.

    Raises:
        ConflictError: the setting and both values.
    """
    for field in ("threads", "batch_size"):
        if (stored := getattr(device, field)) != (measured := getattr(body, field)):
            raise ConflictError(
                f"measured with {field} {measured}; device {device.name!r} has {stored}. "
                "Measure again, or register another device"
            )


def _pairs(tables: CostTables, networks: Sequence[NetworkMeasured]) -> tuple[Genomes, Floats]:
    """(N, G) genomes and (N,) ms of measured networks. Raises ValueError: an architecture outside the space."""
    space = tables.space
    genomes = [space.encode(Architecture.from_json(network.architecture)) for network in networks]
    return np.array(genomes, np.int8).reshape(-1, space.num_genes), np.array([network.ms for network in networks])


def fit(
    tables: CostTables, body: MeasurementsIn, known_devices: Mapping[str, LatencyModel] | None = None
) -> LatencyModel:
    """Fit a latency model on measurements, and models of memory and energy beside it where the device told them.

    known_devices: from which a model of whole networks alone borrows.

    Raises:
        ValueError: as `fit_latency`.
    """
    model = fit_latency(tables, body, known_devices)
    beside = {name: fitted for name in DEVICE_COSTS if (fitted := _fit_beside(tables, body, name, model)) is not None}
    cards = {name: dict(fitted.card) for name, fitted in beside.items()}
    card = {**model.card, **_beside_latency(body), **({"beside": cards} if cards else {})}
    return replace(model, card=card, beside=beside)


def fit_latency(
    tables: CostTables, body: MeasurementsIn, known_devices: Mapping[str, LatencyModel] | None = None
) -> LatencyModel:
    """Fit a latency model alone on measurements. known_devices: as `fit` takes them.

    Raises:
        ValueError: an architecture outside the space, too few networks, or a network with an unmeasured block.
    """
    genomes, measured = _pairs(tables, body.networks)
    return LatencyModel.fit(
        tables,
        body.blocks,
        genomes,
        measured,
        np.random.default_rng(FIT_SEED),
        known_devices=None if body.blocks else known_devices,
        second_run=_pairs(tables, body.checks) if body.checks else None,
    )


def _fit_beside(tables: CostTables, body: MeasurementsIn, name: str, latency: LatencyModel) -> DeviceCostModel | None:
    """The model of a cost that the device told beside latency; None if it told none. Energy starts from part times."""
    told = [
        (network, costs[name])
        for network in body.networks
        if name in (costs := told_costs(network.memory_bytes, network.joules))
    ]
    if not told:
        return None
    similar = [latency.part_times] if name == "energy_mj" and latency.is_complete else []
    genomes, _ = _pairs(tables, [network for network, _ in told])
    values = np.array([value for _, value in told], np.float64)
    return DeviceCostModel.fit(tables, name, genomes, values, np.random.default_rng(FIT_SEED), similar)


def told_costs(memory_bytes: int | None, joules: float | None) -> dict[str, float]:
    """By cost, what a device told of a network beside its latency."""
    told: dict[str, float] = {} if memory_bytes is None else {"device_memory_bytes": memory_bytes}
    return told if joules is None else {**told, "energy_mj": 1e3 * joules}


def told_fields(costs: Mapping[str, float]) -> dict[str, float]:
    """The inverse of `told_costs`: the fields of a measured network."""
    fields: dict[str, float] = {}
    if "device_memory_bytes" in costs:
        fields["memory_bytes"] = int(costs["device_memory_bytes"])
    if "energy_mj" in costs:
        fields["joules"] = costs["energy_mj"] / 1e3
    return fields


def _beside_latency(body: MeasurementsIn) -> dict[str, Any]:
    """For the card: the least and the most memory and energy of the measured networks, where the device told them."""
    found = {}
    for name in ("memory_bytes", "joules"):
        values = [value for network in body.networks if (value := getattr(network, name)) is not None]
        if values:
            found[name] = {"least": min(values), "most": max(values), "networks": len(values)}
    return found


def check_plausible(tables: CostTables, body: MeasurementsIn, known: Sequence[LatencyModel]) -> None:
    """Refuse measurements that cannot be right. known: the device's newest latency model, if it has one.

    Raises:
        InvalidError, ValueError: as `plausible.check_plausible`; an architecture outside the space.
    """
    genomes, ms = _pairs(tables, [*body.networks, *body.checks])
    plausible.check_plausible(
        tables,
        genomes,
        ms,
        batch_size=body.batch_size,
        cpu_threads=body.threads if "CPU" in str(body.host.get("runtime")) else None,
        known=known[0] if known else None,
    )
    if body.blocks and len(ms):
        sums = tables.block_values(body.blocks)[tables.index(genomes)].sum(1)
        plausible.compare("the networks'", ms, sums, "the sums of their blocks'")


def add_model(session: Session, store: Store, name: str, body: MeasurementsIn, model: LatencyModel) -> LatencyModelOut:
    """Store measurements as an artifact, and the latency model fitted on them as the device's newest version.

    Measurements equal to the newest version's add no version; the newest version is returned.
    """
    artifact = store.put(body.model_dump_json().encode())
    device = queries.lock(session, name)
    check(device, body)
    for newest in queries.list_latest_models(session, devices=[name], space_hash=body.space_hash):
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
        reference_ms=body.comparable_ms,
        measurements=artifact,
    )
    return LatencyModelOut.model_validate(queries.add_model(session, row))


def fit_measurements_file(
    tables: CostTables, measurements: Path, known_devices: Mapping[str, LatencyModel] | None = None
) -> LatencyModel:
    """Fit a device's latency model on a file that the probe wrote.

    known_devices: from which a model of whole networks alone borrows.

    Raises:
        ValueError: the file has another format or another search space, or no latency model can be fitted on it.
        OSError: the file cannot be read.
    """
    try:
        measured = MeasurementsIn.model_validate_json(measurements.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise ValueError(f"{measurements} is not what `supple probe` writes: {where}: {fault['msg']}") from error
    if measured.space_hash != tables.space.hash:
        raise ValueError(
            f"{measurements} measures search space {measured.space_hash[:16]}; the bundle's is "
            f"{tables.space.hash[:16]}. Run "
            "`supple probe` on this bundle"
        )
    try:
        check_plausible(tables, measured, [])
        return fit(tables, measured, known_devices)
    except ValueError as error:
        raise ValueError(f"no latency model can be fitted on {measurements}: {error}") from error
