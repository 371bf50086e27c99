"""Bodies about candidates."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.schemas import Answer

Cost = Literal["latency_ms", "flops", "params"]


class CandidateOut(Answer):
    """An architecture of a supernet, and what is predicted, counted, verified and measured of it, each by itself."""

    id: str
    supernet: str
    arch: dict[str, Any] = Field(
        description="Resolution, and per stage, per kept block, its choices in the order of the space's block genes."
    )
    resolution: int = Field(description="Input side, pixels.")
    flops: int = Field(description="Multiply-adds for one image, counted.")
    params: int = Field(description="Learned parameters, counted.")
    predicted_accuracy: float | None = Field(description="By the accuracy predictor, in [0, 1].")
    predictor: str | None = Field(description="Version of that predictor.")
    predicted_latency_ms: dict[str, float] = Field(description="By each device's latency model.")
    predicted_latency_bound_ms: dict[str, float] = Field(
        description="By the same models, the one-sided upper bound at the confidence that the search asked for."
    )
    latency_models: dict[str, str] = Field(description="The latency model behind these, by device.")
    verified_accuracy: float | None = Field(
        description="Of the extracted, recalibrated network on the bundle's held-out images, perturbed as its manifest "
        "says; in [0, 1]."
    )
    verified_images: int | None = Field(description="How many images that were.")
    verified_accuracy_reason: str | None = Field(description="Why there is no verified accuracy.")
    measured_latency_ms: dict[str, float] | None = Field(description="Of the exported network, run on the device.")
    measured_latency_reason: str | None = Field(description="Why there is no measured latency.")
    onnx: str = Field(description="Where its ONNX file is.")
    created_at: datetime


class FrontOut(Answer):
    """The candidates of a supernet of which none is better than another in predicted accuracy and in `x`."""

    supernet: str
    x: Cost
    device: str | None
    candidates: int = Field(description="How many stored candidates were compared.")
    items: list[CandidateOut] = Field(description="From the smallest x.")
