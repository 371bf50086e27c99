"""Request and answer bodies about supernets."""

from datetime import datetime
from typing import Any

from pydantic import Field

from service.web.schemas import Answer, Hash, Request


class SupernetIn(Request):
    """A bundle that lies in the store."""

    bundle_hash: Hash = Field(description="SHA-256 of the bundle's manifest.")


class SupernetOut(Answer):
    """A registered supernet."""

    id: str
    name: str
    bundle_hash: str
    space_hash: str
    family: str
    classes: list[str]
    resolutions: list[int] = Field(description="Input resolutions to choose from, pixels.")
    predictor: dict[str, Any] | None = Field(
        description="The accuracy predictor's card: its training data and its error."
    )
    predictor_warning: str | None = Field(description="Warning if the predictor ranks held-out pairs badly.")
    created_at: datetime


class SupernetDetail(SupernetOut):
    """A registered supernet with everything the service stores about it."""

    space: dict[str, Any] = Field(description="The search space.")
    provenance: dict[str, Any] = Field(description="The bundle's manifest: dataset, seeds and versions.")
    report: dict[str, Any] = Field(description="Accuracies measured after training, and training curves.")
