"""Bodies about candidates."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from service.costs import COSTS, counted_costs
from service.web.schemas import Answer

if TYPE_CHECKING:
    Cost = str
else:
    Cost = Literal[tuple(kind.name for kind in COSTS)]


class MeasuredLatency(Answer):
    """How a latency was measured: `ratio` times `device_reference_ms` is the latency in `measured_latency_ms`."""

    ratio: float = Field(description="Median over the samples of the network's time / the reference network's.")
    spread: float = Field(description="Median absolute deviation of that ratio, as a fraction of it.")
    wall_ms: float = Field(description="What the network took by the clock, median.")
    reference_ms: float = Field(description="What the reference network took by the clock meanwhile, median.")
    device_reference_ms: float | None = Field(
        None,
        description="What the reference network took when the device's latency model was measured; null where that "
        "was not recorded, and then its time meanwhile, over all networks measured together, took its place.",
    )
    samples: int


class Identified(Answer):
    """Which architecture of which supernet a candidate is."""

    id: str
    supernet: str
    arch: dict[str, Any] = Field(
        description="Resolution, and per stage, per kept block, its choices in the order of the space's block genes."
    )
    resolution: int = Field(description="Image size, pixels.")


if TYPE_CHECKING:
    Counted = Identified
else:
    Counted = create_model(
        "Counted",
        __base__=Identified,
        **{
            kind.name: (
                int if kind.whole else float,
                Field(description=f"{kind.description[:1].upper()}{kind.description[1:]}; counted."),
            )
            for kind in counted_costs()
        },
    )


class CandidateOut(Counted):
    """An architecture of a supernet: its costs, and its accuracy and latency as predicted and as verified or measured.

    Predicted and measured values never share a field.
    """

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
    measured_latency_ms: dict[str, float] | None = Field(
        description="Of the exported network, by device, on the scale of the device's latency model: the exported "
        "network's time relative to the reference network's, both run in turns on the device, times what the "
        "reference network took when the device was first measured. The times themselves are in "
        "`measured_latency_details`."
    )
    measured_latency_details: dict[str, MeasuredLatency] | None = Field(description="By device, how it was measured.")
    measured_latency_reason: str | None = Field(description="Why there is no measured latency.")
    onnx: str = Field(description="Where its ONNX file is.")
    created_at: datetime


class FrontOut(Answer):
    """The candidates of a supernet of which none is better than another in predicted accuracy, in `x` and in `y`."""

    supernet: str
    predictor: str = Field(description="Version of the accuracy predictor.")
    x: Cost
    y: Cost | None
    device: str | None
    candidates: int = Field(description="How many stored candidates were compared.")
    size: int = Field(description="How many of these are on the front.")
    hypervolume: float = Field(description="What the front dominates, up to `reference`, in the product of its units.")
    reference: dict[str, float] = Field(
        description="Error 1 (accuracy 0), and what the largest architecture costs, by cost."
    )
    items: list[CandidateOut] = Field(description="From the smallest x; of a large front, 512 that lie far apart.")
