"""Running candidates for real, in a worker: accuracy on held-out images, latency on this machine. Loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from service.candidates import queries as candidates
from service.candidates.queries import add_evaluations, add_measurements, add_unverifiable
from service.context import Context
from service.devices.probe import Model, fingerprint, make_runtime, measure
from service.exports import queries as exports
from service.exports.job import extract_candidate, store_export
from service.storage.tables import Device, LatencyModelRow, now
from service.supernets import queries as supernets
from supernet.export.probe_plan import reference_models

MEASURE_SECONDS = 20.0  # the most for a round of finalists; small networks need less
NO_HOLDOUT = "the bundle has no held-out images"


def verify(context: Context, candidate_id: str) -> None:
    """Extract, recalibrate and score a candidate, and store its ONNX file, unless all of this is stored already."""
    with context.database.reading() as session:
        is_verified = candidate_id in candidates.verifications(session, [candidate_id])
        exported = exports.find(session, candidate_id, "fp32")
    if is_verified and exported is not None and exported.sha256 is not None:
        return
    extracted = extract_candidate(context, candidate_id)
    evaluation = extracted.subnet.evaluate()
    with context.database.writing() as session:
        if evaluation is None:
            add_unverifiable(session, candidate_id, NO_HOLDOUT)
        else:
            supernet = supernets.get(session, candidates.get(session, candidate_id).supernet_id)
            add_evaluations(session, supernet, {candidate_id: evaluation})
    store_export(context, extracted, "fp32", evaluation.accuracy if evaluation else None)


def measurable_devices(latency_models: Mapping[str, LatencyModelRow]) -> list[str]:
    """The devices that were measured on a machine like this one. latency_models: by device."""
    host = fingerprint()
    return [device for device, model in latency_models.items() if model.host == host]


def measure_latency(context: Context, search_id: str, candidate_ids: Sequence[str], device: str, model_id: str) -> None:
    """Measure the ONNX files of candidates on this machine, which is `device`, in turns with the reference network.

    A stored latency is the measured ratio to the reference network, times the reference network's latency when the
    device was first measured. So a machine that is slower for a minute does not count against a candidate.
    """
    with context.database.reading() as session:
        settings = session.get_one(Device, device)
        reference_ms = session.get_one(LatencyModelRow, model_id).reference_ms
        files = {}
        for candidate_id in candidate_ids:
            exported = exports.find(session, candidate_id, "fp32")
            if exported is not None and exported.sha256 is not None:
                files[candidate_id] = context.store.path(exported.sha256)
    networks = [Model(name, path.read_bytes, path.stat().st_size) for name, path in files.items()]
    measured = measure(
        networks,
        {model.name: Model(model.name, model.onnx) for model in reference_models()},
        make_runtime(threads=settings.threads),
        batch_size=settings.batch_size,
        seconds=MEASURE_SECONDS,
    )
    latency_ms = measured.in_ms(reference_ms)
    with context.database.writing() as session:
        add_measurements(
            session,
            [
                {
                    "search_id": search_id,
                    "candidate_id": measurement.name,
                    "device": device,
                    "measured_latency_ms": latency_ms[measurement.name],
                    "details": {**asdict(measurement), "device_reference_ms": reference_ms},
                    "created_at": now(),
                }
                for measurement in measured.models
            ],
        )
