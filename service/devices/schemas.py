"""Request and answer bodies about devices and their measurements."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from service.web.schemas import Answer, Hash, Name, PlainJson, Positive, Request, Text

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MemoryBytes = Annotated[int, Field(ge=0, le=2**50)]
Joules = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
BlockKey = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class DeviceIn(Request):
    """A machine, a runtime and the settings that networks run with."""

    name: Name
    runtime: Text = Field("onnxruntime on CPU", min_length=1, max_length=200)
    threads: int = Field(1, ge=1, le=1024, description="Threads per run.")
    batch_size: int = Field(
        1, ge=1, le=65536, description="Images per run. A latency is the latency of the whole batch."
    )


class NetworkMeasured(Request):
    """The measured latency of a whole network."""

    architecture: PlainJson
    ms: Positive
    ratio: Positive | None = Field(None, description="Its latency over `reference_ms`, without the machine's drift.")
    spread: NotNegative | None = Field(
        None, description="Median absolute deviation of the samples' ratios, as a fraction of their median."
    )
    samples: int | None = Field(None, ge=1)
    memory_bytes: MemoryBytes | None = Field(
        None, description="What a fresh process grows by, at most, while it loads and runs the network."
    )
    joules: Joules | None = Field(None, description="Energy of one run, of the whole processor.")


class MeasurementsIn(Request):
    """The result that a probe writes. docs/devices.md describes it. Format 1 is what older probes wrote."""

    format: int = Field(1, ge=1, le=2)
    space: Text = Field("", max_length=200, description="Name of the search space.")
    space_hash: Hash
    status: Literal["complete", "partial"] = Field(
        "complete", description="`partial`: `--seconds` or `--most` left out samples or networks."
    )
    plan: Hash | None = Field(None, description="SHA-256 of the plan that was measured.")
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    runtime: PlainJson | None = Field(
        None, description="The runtime's `name`, `version` and `provider`, and which nodes fell back to another one."
    )
    host: PlainJson = Field(description="Fingerprint of the machine that measured.")
    clock: PlainJson | None = Field(None, description="`name` and `resolution_ns` of the clock.")
    load: PlainJson | None = Field(None, description="Load averages `before` and `after` measuring.")
    seconds: float | None = Field(None, description="How long measuring took, seconds.")
    reference_ms: Positive | None = Field(
        None,
        description="Geometric mean of the latencies of the reference networks. Later measurements compare with it.",
    )
    references: PlainJson | None = Field(None, description="By reference network: `ms`, `spread`, `samples`.")
    busy: FiniteFloat | None = Field(
        None, description="Fraction of the time in which other programs held the processor."
    )
    repeated: int | None = Field(None, ge=0, description="Samples that were taken again because they were disturbed.")
    overhead_ms: FiniteFloat | None = Field(None, description="Latency of an empty network: the cost of one call.")
    blocks: dict[BlockKey, NotNegative] = Field(
        max_length=200_000, description="Latency by block key, ms. Empty where whole networks alone were measured."
    )
    networks: list[NetworkMeasured] = Field(max_length=20_000)
    checks: list[NetworkMeasured] = Field(
        default_factory=list,
        max_length=20_000,
        description="Networks of a second run in a fresh process. They tell the error of the latency model.",
    )
    measurements: PlainJson | None = Field(None, description="Raw measurements, before any correction.")

    @property
    def comparable_ms(self) -> float | None:
        """`reference_ms`, if later measurements may be compared with it. Those of format 1 had other references."""
        return self.reference_ms if self.format > 1 else None


class LatencyModelOut(Answer):
    """A device's latency model for one search space."""

    id: str
    device: str
    space_hash: str
    version: int
    card: dict[str, Any] = Field(
        description="Its error on held-out networks. `beside` has the cards of the models of `device_memory_bytes` and "
        "`energy_mj`, where the device told these; `refused` in them says why limits on them are refused."
    )
    host: dict[str, Any] = Field(description="Fingerprint of the machine that measured.")
    created_at: datetime


class RefitOut(Answer):
    """What came of fitting a latency model anew with the networks that verification measured."""

    space_hash: str
    networks: int = Field(description="How many networks verification had measured.")
    old_error: float = Field(
        description="Mean absolute percentage error without these networks. Both errors are of the same networks, each "
        "predicted by a fit that did not see it."
    )
    new_error: float = Field(description="The error with these networks.")
    old_model: str
    new_model: str | None = Field(description="The id of the new latency model; null if its error is larger.")
    created_at: datetime


class DeviceOut(Answer):
    """A device, with its newest latency model for each search space."""

    name: str
    runtime: str
    threads: int
    batch_size: int
    latency_models: list[LatencyModelOut]
    refits: list[RefitOut] = Field(description="What came of fitting its latency models anew, newest first.")
    seen_at: datetime | None = Field(description="When a probe on it last asked for a measurement job.")
    warning: str | None = Field(description="Whether its latencies are stale: its probe now has another runtime.")
    created_at: datetime
