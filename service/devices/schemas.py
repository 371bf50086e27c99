"""Bodies about devices and what is measured on them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from service.web.schemas import Answer, Name, Request, Text


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
