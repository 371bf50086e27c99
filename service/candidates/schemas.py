"""Answer bodies of candidates and fronts."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model

from service.costs import COSTS, counted_costs
from service.web.schemas import Answer
from supernet.bundle import Training
from supernet.evaluation.metrics import Evaluation

if TYPE_CHECKING:  # here and below: types that follow from the table of costs, which type checkers cannot read
    Cost = str
else:
    Cost = Literal[tuple(kind.name for kind in COSTS)]


FineTuningStatus = Literal["queued", "running", "done", "failed", "cancelled"]


class MeasuredLatency(Answer):
    """How a latency was measured: `ratio` times `device_reference_ms` is the latency in `measured_latency_ms`."""

    ratio: float = Field(
        description="The network's time divided by the reference network's time; the median over the samples."
    )
    spread: float = Field(description="The median absolute deviation of the ratio, as a fraction of the ratio.")
    wall_ms: float = Field(description="The network's wall-clock time, median.")
    reference_ms: float = Field(description="The reference network's wall-clock time in the same measurement, median.")
    device_reference_ms: float | None = Field(
        None,
        description="The reference network's time when the device's latency model was measured. Null if that time was "
        "not recorded; then the median of the reference network's time in this measurement replaces it.",
    )
    samples: int = Field(description="How many times each network was run.")
    lower_ms: float | None = Field(
        None,
        description="A lower bound of the median latency at 95 %, on the scale of `measured_latency_ms`; from the "
        "order of the samples alone. Null: not stored by an earlier release.",
    )
    upper_ms: float | None = Field(
        None, description="An upper bound likewise. A verified answer holds its limit with this bound."
    )


class Inherited(Answer):
    """What a subnet scores on the bundle's held-out images with the supernet's weights, after recalibration.

    The images are perturbed as the bundle's manifest says. A search with `evaluate: inherited` that takes the best of
    many subnets on the same images is a little optimistic about it.
    """

    accuracy: float = Field(description="Top-1, in [0, 1]; the same as `verified_accuracy`.")
    top5: float | None = Field(
        description="How often the true class is among the five most probable, in [0, 1]. Null: not stored by an "
        "earlier release."
    )
    f1_macro: float | None = Field(
        description="The mean of F1 over the classes, in [0, 1]. Null: not stored by an earlier release."
    )
    log_likelihood: float | None = Field(description="The mean log-likelihood of the true class, nats.")
    images: int = Field(description="How many images these are over, perturbed copies not counted.")

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation, views: int) -> Self:
        """views: how many perturbed copies of each image the evaluation is over."""
        return cls(**asdict(evaluation) | {"images": evaluation.images // views})


class Identified(Answer):
    """Which architecture of which supernet a candidate is."""

    id: str
    supernet: str
    arch: dict[str, Any] = Field(
        description="The resolution and, for each block of each stage, its values in the order of the space's block "
        "genes."
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


class FineTuningOut(Answer):
    """A candidate's network trained alone, on the supernet's training images.

    Both accuracies are measured on the held-out images, as a candidate's `verified_accuracy` is.
    """

    id: str
    candidate: str
    status: FineTuningStatus
    training: Training = Field(description="Whether training started from the supernet's weights or from random ones.")
    epochs: int
    learning_rate: float | None = Field(description="The highest learning rate; null until it is known or if left out.")
    distillation: float | None = Field(description="Weight of the soft labels of the supernet's largest network.")
    seed: int
    progress: dict[str, Any] | None = Field(description="While it runs: the stage, and how many steps are done.")
    inherited_accuracy: float | None = Field(
        description="The verified accuracy with the supernet's weights, after recalibration; in [0, 1]."
    )
    verified_accuracy: float | None = Field(description="The verified accuracy of the trained network; in [0, 1].")
    verified_images: int | None = Field(description="How many images these are over, perturbed copies not counted.")
    onnx: str | None = Field(description="The path of the ONNX file below the service's address.")
    weights: str | None = Field(description="The path of the weights, a safetensors file.")
    problem: dict[str, Any] | None = Field(description="Why it failed.")
    created_at: datetime
    finished_at: datetime | None


class CandidateOut(Counted):
    """An architecture of a supernet: its costs, and what was predicted and what was verified or measured of it.

    Predicted and measured values never share a field.
    """

    predicted_accuracy: float | None = Field(
        description="The accuracy that the accuracy predictor predicts, in [0, 1]."
    )
    predicted_accuracy_std: float | None = Field(
        description="The standard deviation of measured accuracies around the predicted one. Of subnets drawn like the "
        "predictor's pairs, 95 % are measured within 1.96 of it. A search prefers subnets whose predicted accuracy is "
        "too high, which this leaves out. Null if the predictor's errors are not known."
    )
    predictor: str | None = Field(description="The version of the accuracy predictor.")
    predicted_latency_ms: dict[str, float] = Field(
        description="By device, the latency that the device's latency model predicts."
    )
    predicted_device_memory_bytes: dict[str, float] = Field(
        {},
        description="By device, the bytes that a process is predicted to grow by, at most, while it loads and runs the "
        "network. Empty where the device's memory was not measured or is predicted too badly.",
    )
    predicted_energy_mj: dict[str, float] = Field(
        {}, description="By device, the energy that one run is predicted to take, millijoules; empty likewise."
    )
    predicted_latency_bound_ms: dict[str, float] = Field(
        description="By device, the one-sided upper bound of the latency at the confidence of the search's limit."
    )
    latency_models: dict[str, str] = Field(description="By device, the id of the latency model.")
    verified_accuracy: float | None = Field(
        description="The accuracy of the extracted and recalibrated network on the bundle's held-out images, perturbed "
        "as the bundle's manifest says; in [0, 1]."
    )
    verified_images: int | None = Field(description="How many images the verified accuracy is over.")
    verified_accuracy_reason: str | None = Field(description="Why there is no verified accuracy.")
    inherited: Inherited | None = Field(
        description="All scores on the held-out images, once they are measured: by `verify`, or by a search with "
        "`evaluate: inherited`."
    )
    measured_latency_ms: dict[str, float] | None = Field(
        description="By device, the measured latency of the exported network, on the scale of the device's latency "
        "model. The exported network and a reference network run in turns on the device; the ratio of their times is "
        "multiplied by the reference network's time from when the device was first measured. "
        "`measured_latency_details` has the times themselves."
    )
    measured_device_memory_bytes: dict[str, float] | None = Field(
        None,
        description="By device, the bytes that a fresh process grew by, at most, while it loaded and ran the exported "
        "network. Null where the device did not tell.",
    )
    measured_energy_mj: dict[str, float] | None = Field(
        None,
        description="By device, the energy of one run of the exported network, millijoules, of the whole processor. "
        "Null where the device did not tell.",
    )
    measured_latency_details: dict[str, MeasuredLatency] | None = Field(
        description="By device, how the latency was measured."
    )
    measured_latency_reason: str | None = Field(description="Why there is no measured latency.")
    onnx: str = Field(description="The path of the ONNX file below the service's address.")
    finetunes: list[FineTuningOut] = Field([], description="The networks trained alone from it, newest first.")
    created_at: datetime


class FrontOut(Answer):
    """The Pareto front of a supernet's stored candidates: predicted accuracy against the costs `x` and `y`."""

    supernet: str
    predictor: str = Field(description="The version of the accuracy predictor.")
    x: Cost
    y: Cost | None
    device: str | None
    candidates: int = Field(description="How many stored candidates were compared.")
    size: int = Field(description="How many candidates are on the front.")
    hypervolume: float = Field(
        description="How much of the objective space the front dominates, up to `reference`, in the product of the "
        "objectives' units."
    )
    reference: dict[str, float] = Field(
        description="The reference point: error 1 (accuracy 0), and for each cost the most expensive architecture's."
    )
    items: list[CandidateOut] = Field(
        description="The members of the front, sorted by `x`. Of a large front, 512 members that lie far apart."
    )
