"""Bodies about devices and what is measured on them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from service.schemas import Answer, Hash, Name, PlainJson, Positive, Request, Text

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BlockKey = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class DeviceIn(Request):
    """Something that networks run on."""

    name: Name
    runtime: Text = Field("onnxruntime on CPU", min_length=1, max_length=200)
    threads: int = Field(1, ge=1, le=1024, description="Threads that one run uses.")
    batch_size: int = Field(1, ge=1, le=65536, description="Images per run; a latency is that of the whole batch.")


class LatencyModelOut(Answer):
    """A device's latency model for one search space."""

    id: str
    device: str
    space_hash: str
    version: int
    card: dict[str, Any] = Field(description="Its error on networks it was not fitted on.")
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


class NetworkMeasured(Request):
    """A whole network's measured latency."""

    architecture: PlainJson
    ms: Positive


class MeasurementsIn(Request):
    """What `supple probe` measured, as it writes it."""

    format: int = Field(1, ge=1, le=1)
    space: Text = Field("", max_length=200, description="The search space's name, for people.")
    space_hash: Hash
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    host: PlainJson = Field(description="Fingerprint of the machine that measured.")
    seconds: float | None = Field(None, description="How long measuring took.")
    reference_ms: Positive | None = Field(
        None,
        description="The reference network measured in turns with all others: it ties later measurements to these.",
    )
    busy: FiniteFloat | None = Field(None, description="Fraction of the time in which other programs ran instead.")
    overhead_ms: FiniteFloat | None = Field(None, description="An empty network: the cost of a call.")
    blocks: dict[BlockKey, NotNegative] = Field(
        min_length=1, max_length=200_000, description="Latency by block key, ms."
    )
    networks: list[NetworkMeasured] = Field(max_length=20_000)
    measurements: PlainJson | None = Field(None, description="Raw: before any correction.")
