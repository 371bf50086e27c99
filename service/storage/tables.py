"""The tables. They trace each answer of a search to its supernet, accuracy predictor, latency models and seed.

Predicted and measured values lie in different tables and never share a column.
"""

import secrets
import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

HASH = String(64)  # SHA-256, hexadecimal
ARTIFACT = {"artifact": True}  # marks a column that names files in the store
ID = String(32)
NAME = String(64)


def new_id() -> str:
    """32 hexadecimal digits: the time in milliseconds, so that ids sort by it, then random digits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def first_id(at: datetime) -> str:
    """The start of every id made in the millisecond of a time. Ids made earlier sort before it."""
    return f"{max(0, round(1e3 * at.timestamp())):012x}"


def time_of(name: str) -> datetime:
    """The time in UTC when `new_id` made an id, to the millisecond."""
    return datetime.fromtimestamp(int(name[:12], 16) / 1e3, UTC)


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite stores no time zone, so reading adds it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The stored value as a time in UTC."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base class of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        datetime: UtcDateTime,
        float: Double,
        bytes: LargeBinary,
    }


class ApiKey(Base):
    """An API key. Only its hash is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    key_hash: Mapped[str] = mapped_column(HASH, unique=True)
    scopes: Mapped[str] = mapped_column(NAME)  # with blanks between them
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute


class BrowserSession(Base):
    """A browser that signed in with a key. It ends when the key is revoked or expires."""

    __tablename__ = "browser_sessions"

    token_hash: Mapped[str] = mapped_column(HASH, primary_key=True)  # of the cookie's value
    key_hash: Mapped[str] = mapped_column(HASH, index=True)  # of the key, which may be in the environment
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Supernet(Base):
    """A registered bundle. Its files are in the store under `bundle_hash`."""

    __tablename__ = "supernets"

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # the first 16 digits of the bundle's hash
    bundle_hash: Mapped[str] = mapped_column(HASH, unique=True, info=ARTIFACT)
    name: Mapped[str] = mapped_column(String(200))
    space_hash: Mapped[str] = mapped_column(HASH, index=True)
    manifest: Mapped[dict[str, Any]]
    report: Mapped[dict[str, Any]]
    predictor_version: Mapped[str | None] = mapped_column(ID)  # the one in use: the first 16 digits of its file's hash
    predictor_card: Mapped[dict[str, Any] | None]  # of the one in use
    images: Mapped[str | None] = mapped_column(Text)  # folder of its training images, as the operator registered it
    created_at: Mapped[datetime] = mapped_column(default=now)


class PredictorVersion(Base):
    """An accuracy predictor that was fitted again for a supernet. The bundle's own has no row."""

    __tablename__ = "predictor_versions"

    supernet_id: Mapped[str] = mapped_column(ForeignKey("supernets.id"), primary_key=True)
    version: Mapped[str] = mapped_column(ID, primary_key=True)  # the first 16 digits of the file's hash
    file: Mapped[str] = mapped_column(HASH, info=ARTIFACT)
    pairs: Mapped[str] = mapped_column(HASH, info=ARTIFACT)  # what it was fitted on
    card: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class PredictorRefit(Base):
    """A job that fits a supernet's accuracy predictor again, with the candidates that were verified since.

    status: queued, running, done or failed. Both errors are of the same held-out pairs near the front of FLOPs and
    accuracy, each predicted by a fit that did not see it.
    """

    __tablename__ = "predictor_refits"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    supernet_id: Mapped[str] = mapped_column(ForeignKey("supernets.id"), index=True)
    old_version: Mapped[str] = mapped_column(ID)
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)  # how often a worker began this job
    old_pairs: Mapped[int | None]
    new_pairs: Mapped[int | None]
    old_errors: Mapped[dict[str, Any] | None]  # pairs, rmse, kendall_tau
    new_errors: Mapped[dict[str, Any] | None]
    new_version: Mapped[str | None] = mapped_column(ID)  # null: not kept
    problem: Mapped[dict[str, Any] | None]  # why it failed
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class Device(Base):
    """A place where networks run: a machine, a runtime, and how many threads and images a run uses."""

    __tablename__ = "devices"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    runtime: Mapped[str] = mapped_column(String(200))
    threads: Mapped[int]
    batch_size: Mapped[int]
    seen_at: Mapped[datetime | None]  # when a probe on it last asked for a job
    seen_host: Mapped[dict[str, Any] | None]  # the newest fingerprint that its probe sent
    created_at: Mapped[datetime] = mapped_column(default=now)


class LatencyModelRow(Base):
    """A latency model of one device for one search space, with models of memory and energy if the device told them.

    Measuring again makes a new version.
    """

    __tablename__ = "latency_models"
    __table_args__ = (UniqueConstraint("device", "space_hash", "version"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"))
    space_hash: Mapped[str] = mapped_column(HASH)
    version: Mapped[int]  # counts from 1 for each device and space
    model: Mapped[dict[str, Any]]
    card: Mapped[dict[str, Any]]
    host: Mapped[dict[str, Any]]  # fingerprint of the machine that measured
    reference_ms: Mapped[float | None]  # of the reference network, measured in alternation with the models
    measurements: Mapped[str] = mapped_column(HASH, info=ARTIFACT)  # the request with the measurements
    created_at: Mapped[datetime] = mapped_column(default=now)


class Candidate(Base):
    """An architecture that a search proposed. One row per architecture and supernet, which all searches share."""

    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("supernet_id", "architecture_id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    supernet_id: Mapped[str] = mapped_column(ForeignKey("supernets.id"))
    architecture_id: Mapped[str] = mapped_column(ID)  # `SearchSpace.id`
    architecture: Mapped[dict[str, Any]]
    genome: Mapped[bytes]  # G int8, canonical
    resolution: Mapped[int]  # pixels
    flops: Mapped[int] = mapped_column(BigInteger)  # multiply-adds
    params: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class AccuracyPrediction(Base):
    """A candidate's accuracy, predicted by one version of its supernet's accuracy predictor.

    number: larger than the numbers of all predictions of this version that were committed before.
    """

    __tablename__ = "accuracy_predictions"
    __table_args__ = (UniqueConstraint("predictor_version", "number"),)

    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    predictor_version: Mapped[str] = mapped_column(ID, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    predicted_accuracy: Mapped[float]  # in [0, 1]
    predicted_accuracy_std: Mapped[float | None]  # of measured accuracies around it; None if the errors are not known


class CandidatePack(Base):
    """Candidates of one supernet with their predicted accuracies, packed: a copy of thousands of rows in one.

    Every prediction of the version that has a number up to `last`, and none after, is in this pack or an earlier one.
    """

    __tablename__ = "candidate_packs"

    predictor_version: Mapped[str] = mapped_column(ID, primary_key=True)
    last: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    supernet_id: Mapped[str] = mapped_column(ForeignKey("supernets.id"), primary_key=True)
    numbers: Mapped[bytes]  # N little-endian int64: of the predictions, ascending
    genomes: Mapped[bytes]  # N genomes of G int8
    accuracy: Mapped[bytes]  # N little-endian float64


class LatencyPrediction(Base):
    """A candidate's latency, predicted by one version of a device's latency model."""

    __tablename__ = "latency_predictions"

    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    latency_model_id: Mapped[str] = mapped_column(ForeignKey("latency_models.id"), primary_key=True)
    predicted_latency_ms: Mapped[float]
    beside: Mapped[dict[str, Any] | None]  # by name of the cost, predicted memory and energy; null: not predicted


class Search(Base):
    """One question and its answer. The columns up to `seed` determine the answer.

    status: queued, running, verifying, done, not_verified, failed or cancelled.
    """

    __tablename__ = "searches"
    __table_args__ = (Index(None, "supernet_id", "id"), Index(None, "status", "id"))

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    supernet_id: Mapped[str] = mapped_column(ForeignKey("supernets.id"))
    request: Mapped[dict[str, Any]]  # the canonical form
    predictor_version: Mapped[str] = mapped_column(ID)
    latency_models: Mapped[dict[str, Any]]  # device: latency model's id
    warm_start: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)  # the genomes that the search started from
    warm_starts: Mapped[int] = mapped_column(default=0)  # number of these genomes
    seed: Mapped[int] = mapped_column(BigInteger)

    question: Mapped[str | None] = mapped_column(HASH, index=True)  # of all above but the warm start; null: before 0002
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    progress: Mapped[dict[str, Any] | None]
    best_candidate_id: Mapped[str | None] = mapped_column(ForeignKey("candidates.id"))
    limits_hold: Mapped[str | None] = mapped_column(String(16))  # counted, predicted, bound or measured
    problem: Mapped[dict[str, Any] | None]  # why there is no best candidate
    findings: Mapped[dict[str, Any] | None]  # how the answer was found: a front's hypervolume after each generation
    evaluations: Mapped[int | None]
    elapsed_ms: Mapped[float | None]
    evaluated: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)  # every evaluated genome and its scores
    attempts: Mapped[int] = mapped_column(default=0)  # how often a worker began this search
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class SearchDevice(Base):
    """A device whose latency model a search used."""

    __tablename__ = "search_devices"

    device: Mapped[str] = mapped_column(ForeignKey("devices.name"), primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)


class SearchState(Base):
    """The state of a running search, from which another worker can continue. Deleted when the search ends."""

    __tablename__ = "search_states"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    generation: Mapped[int]
    state: Mapped[bytes]  # npz: population, random generator, evaluated genomes and scores


class SearchCandidate(Base):
    """A candidate in a search's answer: a member of its front, or a finalist."""

    __tablename__ = "search_candidates"
    __table_args__ = (Index(None, "candidate_id"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    place: Mapped[int]  # 0: the best by predicted values
    on_front: Mapped[bool]


class Verification(Base):
    """What a candidate scores on the bundle's held-out images, after extraction and recalibration."""

    __tablename__ = "verifications"

    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    verified_accuracy: Mapped[float | None]  # in [0, 1]; null: see `reason`
    log_likelihood: Mapped[float | None]  # mean over the images, nats
    top5: Mapped[float | None]  # in [0, 1]; null also where a release before 0005 stored the row
    f1_macro: Mapped[float | None]  # likewise
    images: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)


class LatencyMeasurement(Base):
    """The measured latency of a candidate's exported network, taken for one search."""

    __tablename__ = "latency_measurements"
    __table_args__ = (
        ForeignKeyConstraint(
            ["search_id", "candidate_id"],
            ["search_candidates.search_id", "search_candidates.candidate_id"],
        ),
        Index(None, "candidate_id"),
    )

    search_id: Mapped[str] = mapped_column(ID, primary_key=True)
    candidate_id: Mapped[str] = mapped_column(ID, primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"), primary_key=True)
    measured_latency_ms: Mapped[float]
    details: Mapped[dict[str, Any]]  # samples, spread, bounds, references; memory and energy if the device told them
    created_at: Mapped[datetime] = mapped_column(default=now)


class MeasurementJob(Base):
    """Candidates that a probe on a device is to measure for a search.

    status: queued, claimed, done, failed or cancelled. A claimed job whose claim has expired counts as queued.
    """

    __tablename__ = "measurement_jobs"
    __table_args__ = (UniqueConstraint("search_id", "device", "number", "turn"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"))
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"), index=True)
    number: Mapped[int]  # of the round of finalists, from 0
    turn: Mapped[int]  # from 0; the next ones take more samples of candidates near a limit
    space_hash: Mapped[str] = mapped_column(HASH)
    expected_ms: Mapped[dict[str, Any]]  # by candidate to measure, its predicted latency
    samples: Mapped[int]  # of each candidate
    plan: Mapped[str] = mapped_column(HASH, info=ARTIFACT)
    status: Mapped[str] = mapped_column(String(16))
    claim: Mapped[str | None] = mapped_column(ID)  # a secret of the probe that holds the job
    probe: Mapped[str | None] = mapped_column(String(200))  # the probe's own name
    expires_at: Mapped[datetime | None]  # of the claim
    claims: Mapped[int] = mapped_column(default=0)
    result: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)
    error: Mapped[str | None] = mapped_column(Text)  # why it failed
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class LatencyRefit(Base):
    """A latency model fitted anew with what verification measured, and its error beside the old model's.

    Both errors are of the same networks, each predicted by a fit that did not see it.
    """

    __tablename__ = "latency_refits"

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=new_id)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"), index=True)
    space_hash: Mapped[str] = mapped_column(HASH)
    old_model: Mapped[str] = mapped_column(ForeignKey("latency_models.id"))
    new_model: Mapped[str | None] = mapped_column(ForeignKey("latency_models.id"))  # null: it was no better
    networks: Mapped[int]  # that verification measured
    old_error: Mapped[float]  # mean absolute percentage error
    new_error: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now)


class PlanRow(Base):
    """What a device measures for a search space: a zip file with blocks and networks.

    status: queued, done, failed (once its problem was told, a request tries again) or impossible (the space has none).
    """

    __tablename__ = "plans"

    space_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    networks: Mapped[int] = mapped_column(primary_key=True)  # whole networks alone; 0: blocks and some networks
    version: Mapped[str] = mapped_column(String(16), primary_key=True)  # of the format and of the reference networks
    status: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)
    problem: Mapped[dict[str, Any] | None]
    attempts: Mapped[int] = mapped_column(default=0)  # how often it was enqueued, and how often a worker began it
    created_at: Mapped[datetime] = mapped_column(default=now)


class FineTuning(Base):
    """A candidate's network trained alone, from the supernet's weights or from random ones.

    status: queued, running, done, failed or cancelled; a new request tries the last two again.
    """

    __tablename__ = "fine_tunings"
    __table_args__ = (Index(None, "candidate_id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # 16 digits of the hash of the candidate and the plan
    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"))
    plan: Mapped[dict[str, Any]]  # as requested; null stands for the recipe's value
    status: Mapped[str] = mapped_column(String(16))
    progress: Mapped[dict[str, Any] | None]
    card: Mapped[dict[str, Any] | None]  # settings as used, scores before and after, the curve of the loss
    onnx: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)
    weights: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)  # safetensors
    problem: Mapped[dict[str, Any] | None]
    attempts: Mapped[int] = mapped_column(default=0)  # how often a worker began this training
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class Export(Base):
    """A candidate's file for download.

    status: queued, done, failed (a new request tries again) or impossible (the same weights would fail again).
    """

    __tablename__ = "exports"

    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    precision: Mapped[str] = mapped_column(String(8), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str | None] = mapped_column(HASH, info=ARTIFACT)
    size: Mapped[int | None] = mapped_column(BigInteger)  # bytes
    parity: Mapped[float | None]  # max |onnxruntime - torch| over the logits of real images
    problem: Mapped[dict[str, Any] | None]
    attempts: Mapped[int] = mapped_column(default=0)  # how often a worker began this export
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
