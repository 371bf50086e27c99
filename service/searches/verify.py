"""Running candidates for real, in a worker: accuracy on held-out images, latency on this machine. Loads torch."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from service.candidates import queries as candidates
from service.candidates.queries import add_evaluations, add_unverifiable
from service.context import Context
from service.devices.probe import ProbeError, Runtime, make_runtime, run_plan
from service.exports import queries as exports
from service.exports.job import extract_candidate, store_export
from service.measurement_jobs import queries as jobs
from service.measurement_jobs.schemas import ResultIn
from service.storage.tables import Device, MeasurementJob
from service.supernets import queries as supernets
from supernet.export.probe_plan import ProbeModel, write_plan
from supernet.space import SearchSpace

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


@dataclass(frozen=True)
class ExportedNetwork(ProbeModel):
    """A candidate in a plan: its trained network. file: its ONNX file in the artifact store."""

    file: Path = Path()

    def onnx(self) -> bytes:
        """The ONNX file, which is also the download."""
        return self.file.read_bytes()


def store_plan(context: Context, space: SearchSpace, candidate_ids: Sequence[str]) -> str:
    """Store a plan of the exported networks of candidates, as it is after `verify`. Returns its SHA-256."""
    with context.database.reading() as session:
        rows = candidates.by_id(session, candidate_ids)
        exported = [exports.find(session, row.id, "fp32") for row in rows]
    networks = [
        ExportedNetwork(
            row.id,
            "network",
            (space.in_channels, row.resolution, row.resolution),
            nn.Identity,
            {"architecture": row.architecture},
            context.store.path(export.sha256),
        )
        for row, export in zip(rows, exported, strict=True)
        if export is not None and export.sha256 is not None
    ]
    with tempfile.TemporaryDirectory(prefix="supple-plan-") as folder:
        write_plan(Path(folder) / "plan.zip", space, networks)
        return context.store.put((Path(folder) / "plan.zip").read_bytes())


def runtime_here(host: Mapping[str, Any], threads: int) -> Runtime | None:
    """The runtime that a fingerprint names, as it is installed on this machine; None if it does not start here."""
    name, _, version_and_provider = str(host.get("runtime", "")).partition(" ")
    try:
        return make_runtime(name, version_and_provider.partition(", ")[2], threads)
    except ProbeError:
        return None


def measure_here(context: Context, job: MeasurementJob, runtime: Runtime) -> ResultIn:
    """The result of a measurement job, measured on this machine.

    Raises:
        ProbeError (a ValueError): a network does not run.
    """
    with context.database.reading() as session:
        batch_size = session.get_one(Device, job.device).batch_size
        memory = jobs.needs_memory(session, job)
    result = run_plan(
        context.store.path(job.plan),
        runtime=runtime,
        batch_size=batch_size,
        samples=job.samples,
        seconds=MEASURE_SECONDS,
        memory=memory,
    )
    return ResultIn.model_validate(result)
