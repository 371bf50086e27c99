"""Building a candidate's file, in a worker. Loads torch."""

from dataclasses import dataclass

from torch import nn

from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.context import Context
from service.errors import problem_document_of
from service.exports import queries
from service.exports.request import Precision
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.storage.tables import Candidate
from service.supernets import queries as supernets
from supernet.bundle import Bundle
from supernet.evaluation.evaluate import Evaluator
from supernet.export.parity import export_metadata, export_subnet
from supernet.export.writer import ExportError
from supernet.space import Architecture


@dataclass(frozen=True)
class Subnet:
    """A candidate as a network of its own: extracted, recalibrated, in evaluation mode.

    most_bytes: how large its file was counted to be at most, which limits on searches relied on.
    """

    candidate: Candidate
    most_bytes: int
    predicted_accuracy: float | None
    bundle: Bundle
    evaluator: Evaluator
    network: nn.Module

    @property
    def arch(self) -> Architecture:
        """Its architecture."""
        return Architecture.from_json(self.candidate.architecture)


def extract(context: Context, candidate_id: str) -> Subnet:
    """Extract a candidate from its supernet."""
    with context.database.reading() as session:
        candidate = candidates.get(session, candidate_id)
        supernet = supernets.get(session, candidate.supernet_id)
        version = supernet.predictor_version or ""
        predicted = candidates.predicted_accuracy(session, [candidate_id], version).get(candidate_id)
    most_bytes = int(context.loaded(supernet).tables.model_bytes(genomes_of([candidate]))[0])
    bundle, evaluator = context.evaluator(supernet)
    network = evaluator.subnet(Architecture.from_json(candidate.architecture))
    return Subnet(candidate, most_bytes, predicted, bundle, evaluator, network)


def export(context: Context, subnet: Subnet, precision: Precision, verified_accuracy: float | None) -> None:
    """Write a subnet's file, compare it with the network and store it.

    Raises:
        ExportError (a ValueError): the network cannot be written, the file differs from it, or is larger than counted.
    """
    metadata = export_metadata(
        subnet.bundle,
        subnet.arch,
        predicted_accuracy=subnet.predicted_accuracy,
        verified_accuracy=verified_accuracy,
    )
    file = export_subnet(subnet.network, subnet.evaluator.sample(subnet.arch.resolution), metadata)
    if len(file.data) > subnet.most_bytes:
        raise ExportError(
            f"the file of candidate {subnet.candidate.id} has {len(file.data):,} bytes, more than the "
            f"{subnet.most_bytes:,} that it was counted to have at most, so a limit on model_bytes may not hold"
        )
    digest = context.store.put(file.data)
    with context.database.writing() as session:
        queries.add(session, subnet.candidate.id, precision)
        queries.finish(
            session,
            subnet.candidate.id,
            precision,
            status="done",
            sha256=digest,
            size=len(file.data),
            parity=file.difference,
        )


def build_export(context: Context, step: Step, subject: str) -> None:
    """The job: build the file that `subject` names, "candidate:precision:attempts made before it was asked for"."""
    candidate_id, precision, before = subject.split(":")

    def build() -> None:
        with context.database.reading() as session:
            verification = candidates.verifications(session, [candidate_id]).get(candidate_id)
        verified = verification.verified_accuracy if verification else None
        export(context, extract(context, candidate_id), "fp32", verified)

    with context.database.writing() as session:
        attempts = queries.begin(session, candidate_id, precision).attempts - int(before)
    try:
        if attempts > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while building this file; their logs say why")
        step("build", build)
    except Exception as error:
        status = "impossible" if isinstance(error, ExportError) else "failed"
        with context.database.writing() as session:
            queries.finish(session, candidate_id, precision, status=status, problem=problem_document_of(error))
        raise
