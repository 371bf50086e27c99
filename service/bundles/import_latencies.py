"""Importing latencies that others measured, into a bundle or a file of measurements."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.bundles.search import bundle_latency_models
from service.devices.imported import Imported, read_latencies
from service.devices.measurements import check_plausible, fit
from service.devices.schemas import DeviceIn, MeasurementsIn
from service.errors import InputError
from supernet.bundle import Bundle
from supernet.bundle_writing import with_device


def import_measurements(
    bundle: Bundle, files: Sequence[Path], device: DeviceIn, *, plan: Path | None = None, skip: bool = False
) -> tuple[dict[str, Any], LatencyModel, Imported]:
    """Read latencies of whole networks and fit a device's latency model, which borrows from the bundle's devices.

    Returns the measurements, in the form that a probe writes, the model, and what was read.

    Raises:
        ValueError: what `read_latencies`, `check_plausible` and `fit` raise.
    """
    read = read_latencies(files, bundle.space, plan, skip=skip)
    measured = {
        "format": 2,
        "space": bundle.space.name,
        "space_hash": bundle.space.hash,
        "threads": device.threads,
        "batch_size": device.batch_size,
        "host": {"runtime": device.runtime, "imported": ", ".join(path.name for path in files)},
        "blocks": {},
        "networks": [{"architecture": arch.to_json(), "ms": ms} for arch, ms in read.networks],
    }
    tables = CostTables(bundle.space)
    known = {name: model for name, model in bundle_latency_models(bundle, tables).items() if name != device.name}
    body = MeasurementsIn.model_validate(measured)
    check_plausible(tables, body, [])
    model = fit(tables, body, known)
    return measured, model, read


def store_in_bundle(bundle: Bundle, device: DeviceIn, model: LatencyModel) -> Bundle:
    """Add a device with its latency model to a bundle, in place. Raises OSError: the bundle cannot be written."""
    values = {**device.model_dump(exclude={"name"}), "latency_model": model.to_json()}
    return with_device(bundle, device.name, values)


def described_device(name: str, runtime: str, threads: int, batch_size: int) -> DeviceIn:
    """A device's settings. Raises InputError: a name or a setting that is not allowed."""
    try:
        return DeviceIn(name=name, runtime=runtime, threads=threads, batch_size=batch_size)
    except ValidationError as error:
        fault = error.errors()[0]
        option = {"name": "--device", "batch_size": "--batch-size"}.get(str(fault["loc"][0]), f"--{fault['loc'][0]}")
        raise InputError(f"{option} is {fault['input']!r}: {fault['msg']}") from error
