"""Request and answer bodies of measurement jobs."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from service.devices.schemas import Joules, MemoryBytes
from service.web.schemas import Answer, Hash, Id, PlainJson, Positive, Request, Text

JobStatus = Literal["queued", "claimed", "done", "failed", "cancelled"]
Claim = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="The secret that the claim was answered with.")]
FEWEST_SAMPLES = 5  # of a network; fewer say nothing of a median at 95 %


class ClaimIn(Request):
    """A probe that asks for a job."""

    host: PlainJson = Field(description="Fingerprint of the machine and its runtime, as in measurements.")
    probe: Text = Field("", max_length=200, description="A name of the probe's process, for people.")


class RenewIn(Request):
    """A probe that still measures."""

    claim: Claim


class SampledIn(Request):
    """The samples of one network."""

    model_config = ConfigDict(extra="ignore")

    wall_ms: Positive = Field(description="Wall-clock time of the network, ms, median.")
    ratios: list[Positive] = Field(
        min_length=FEWEST_SAMPLES,
        max_length=10_000,
        description="Each sample's time over the time of the reference networks beside it.",
    )
    memory_bytes: MemoryBytes | None = Field(
        None,
        description="What a fresh process grew by, at most, while it loaded and ran the network; 0 counts as null.",
    )
    joules: Joules | None = Field(None, description="Energy of one run, of the whole processor; 0 counts as null.")


class ResultIn(Request):
    """What a probe writes after measuring a job's plan. Fields that verification does not need are ignored."""

    model_config = ConfigDict(extra="ignore")

    plan: Hash = Field(description="SHA-256 of the plan that was measured.")
    space_hash: Hash
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    host: PlainJson
    reference_ms: Positive = Field(description="Geometric mean of the references' latencies.")
    measurements: dict[Id, SampledIn] = Field(max_length=64, description="By network.")


class ResultsIn(Request):
    """The end of a claimed job: a result, or why there is none."""

    claim: Claim
    result: ResultIn | None = None
    error: Text | None = Field(None, min_length=1, max_length=2_000)


class MeasurementJobOut(Answer):
    """Finalists of a search that a probe on a device is to measure."""

    id: str
    device: str
    search: str
    status: JobStatus
    space_hash: str
    plan: str = Field(description="The path to download the plan from.")
    plan_hash: str = Field(description="SHA-256 of the plan.")
    threads: int
    batch_size: int
    networks: int = Field(description="How many networks the plan holds.")
    samples: int = Field(description="How many samples of each network to take.")
    probe: str | None = Field(description="The name of the probe that claimed the job last.")
    expires_at: datetime | None = Field(description="When the claim ends, unless it is renewed.")
    error: str | None = Field(description="Why the job failed.")
    created_at: datetime
    finished_at: datetime | None


class ClaimedJobOut(MeasurementJobOut):
    """A job, and the claim on it."""

    memory: bool = Field(
        description="Whether to measure the peak memory of each network, too, as the search limits or minimises it."
    )
    claim: str = Field(description="Send it with the results. Whoever has it holds the job until `expires_at`.")
    lease_seconds: float = Field(description="How long a claim lasts. Renew it at least every third of this time.")
