"""Request and answer bodies about devices and their measurements."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from service.web.schemas import Answer, Hash, Name, PlainJson, Positive, Request, Text

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
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


class MeasurementsIn(Request):
    """The measurements file that `supple probe` writes."""

    format: int = Field(1, ge=1, le=1)
    space: Text = Field("", max_length=200, description="Name of the search space.")
    space_hash: Hash
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    host: PlainJson = Field(description="Fingerprint of the machine that measured.")
    seconds: float | None = Field(None, description="How long measuring took, seconds.")
    reference_ms: Positive | None = Field(
        None,
        description="Latency of the reference network, measured in turns with all others. Later measurements use it.",
    )
    busy: FiniteFloat | None = Field(
        None, description="Fraction of the time in which other programs held the processor."
    )
    overhead_ms: FiniteFloat | None = Field(None, description="Latency of an empty network: the cost of one call.")
    blocks: dict[BlockKey, NotNegative] = Field(
        min_length=1, max_length=200_000, description="Latency by block key, ms."
    )
    networks: list[NetworkMeasured] = Field(max_length=20_000)
    measurements: PlainJson | None = Field(None, description="Raw measurements, before any correction.")


class LatencyModelOut(Answer):
    """A device's latency model for one search space."""

    id: str
    device: str
    space_hash: str
    version: int
    card: dict[str, Any] = Field(description="Its error on held-out networks.")
    host: dict[str, Any] = Field(description="Fingerprint of the machine that measured.")
    created_at: datetime


class DeviceOut(Answer):
    """A device, with its newest latency model for each search space."""

    name: str
    runtime: str
    threads: int
    batch_size: int
    latency_models: list[LatencyModelOut]
    created_at: datetime
