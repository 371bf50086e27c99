"""Answer bodies about versions of accuracy predictors."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from service.web.schemas import Answer


class PredictorVersionOut(Answer):
    """One version of a supernet's accuracy predictor."""

    version: str = Field(description="Searches and candidates name the version that predicted their accuracies.")
    origin: Literal["bundle", "refit"] = Field(description="Whether it came with the bundle or was fitted again here.")
    in_use: bool = Field(description="Whether new searches ask it.")
    card: dict[str, Any] = Field(description="Its training data and its error on held-out pairs.")
    created_at: datetime


class NearFrontErrors(Answer):
    """Errors on held-out pairs near the front of FLOPs and accuracy, where searches end."""

    pairs: int
    rmse: float = Field(description="Root mean square error of the predicted accuracy, a fraction.")
    kendall_tau: float | None


class RefitOut(Answer):
    """A job that fits the predictor again."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    old_version: str
    new_version: str | None = Field(description="Null: not kept, because the new version is worse near the front.")
    old_pairs: int | None = Field(description="Pairs of the old version.")
    new_pairs: int | None = Field(description="Verified candidates that the new version was fitted on, too.")
    old_errors: NearFrontErrors | None
    new_errors: NearFrontErrors | None = Field(description="On the same held-out pairs as `old_errors`.")
    problem: dict[str, Any] | None = Field(description="Why it failed.")
    created_at: datetime
    finished_at: datetime | None


class PredictorsOut(Answer):
    """The versions of a supernet's accuracy predictor, and how far the next refit is."""

    versions: list[PredictorVersionOut] = Field(description="Newest first; the bundle's own is the last.")
    refits: list[RefitOut] = Field(description="Newest first.")
    pairs: int | None = Field(description="Pairs that the version in use was fitted on, if the bundle has them.")
    verified_since: int | None = Field(description="Candidates verified since, which no refit has tried yet.")
    refit_at: int | None = Field(description="At how many of them a worker fits the predictor again.")
    reason: str | None = Field(description="Why the predictor cannot be fitted again.")
