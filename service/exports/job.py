"""Building a candidate's ONNX file, in a worker. Loads torch."""

from dataclasses import dataclass

from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.context import Context
from service.errors import problem_document_of
from service.exports import queries
from service.exports.schemas import Precision
from service.exports.subnet import Subnet, extract_subnet
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.supernets import queries as supernets
from supernet.export.writer import ExportError
from supernet.space import Architecture


@dataclass(frozen=True)
class ExtractedCandidate:
    """A candidate and its extracted subnet.

    max_bytes: the counted upper bound on its file's size, which searches with a limit on model_bytes rely on.
    """

    candidate_id: str
    predicted_accuracy: float | None
    max_bytes: int
    subnet: Subnet


def extract_candidate(context: Context, candidate_id: str) -> ExtractedCandidate:
    """Extract a candidate from its supernet and recalibrate it."""
    with context.database.reading() as session:
        candidate = candidates.get(session, candidate_id)
        supernet = supernets.get(session, candidate.supernet_id)
        version = supernet.predictor_version or ""
        prediction = candidates.accuracy_predictions(session, [candidate_id], [version]).get((candidate_id, version))
        predicted = prediction.predicted_accuracy if prediction else None
    max_bytes = int(context.tables(supernet).model_bytes(genomes_of([candidate]))[0])
    subnet = extract_subnet(*context.evaluator(supernet), Architecture.from_json(candidate.architecture))
    return ExtractedCandidate(candidate_id, predicted, max_bytes, subnet)


def store_export(
    context: Context, extracted: ExtractedCandidate, precision: Precision, verified_accuracy: float | None
) -> None:
    """Write a candidate's ONNX file and store it.

    Raises:
        ExportError (a ValueError): the network cannot be written, the file's results differ from the network's, or the
            file is larger than counted.
    """
    file = extracted.subnet.to_onnx(
        predicted_accuracy=extracted.predicted_accuracy, verified_accuracy=verified_accuracy
    )
    if len(file.data) > extracted.max_bytes:
        raise ExportError(
            f"the file of candidate {extracted.candidate_id} has {len(file.data):,} bytes, more than the counted bound "
            f"of {extracted.max_bytes:,}, so a limit on model_bytes may not hold"
        )
    digest = context.store.put(file.data)
    with context.database.writing() as session:
        queries.add(session, extracted.candidate_id, precision)
        queries.finish(
            session,
            extracted.candidate_id,
            precision,
            status="done",
            sha256=digest,
            size=len(file.data),
            parity=file.difference,
        )


def build_export(context: Context, step: Step, subject: str) -> None:
    """The job: build a candidate's ONNX file.

    subject: "candidate:precision:attempts", the attempts counted before this job was enqueued.
    """
    candidate_id, precision, before = subject.split(":")

    def build() -> None:
        with context.database.reading() as session:
            verification = candidates.verifications(session, [candidate_id]).get(candidate_id)
        verified_accuracy = verification.verified_accuracy if verification else None
        store_export(context, extract_candidate(context, candidate_id), "fp32", verified_accuracy)

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
