"""Supernets as the API and the pages show them."""

from typing import Any

from sqlalchemy.orm import Session

from evolution.predictors.accuracy import ranking_warning
from service.storage.tables import Supernet
from service.supernets import queries
from service.supernets.schemas import SupernetDetail, SupernetOut
from service.web.schemas import Page


def show_supernet(supernet: Supernet) -> SupernetOut:
    """A supernet in a list."""
    return SupernetOut(**_fields(supernet))


def show_supernet_detail(supernet: Supernet) -> SupernetDetail:
    """A supernet by itself."""
    manifest = dict(supernet.manifest)
    return SupernetDetail(**_fields(supernet), space=manifest.pop("space"), provenance=manifest, report=supernet.report)


def get_supernet(session: Session, supernet_id: str) -> SupernetDetail:
    """One supernet. Raises NotFoundError."""
    return show_supernet_detail(queries.get(session, supernet_id))


def list_supernets(
    session: Session, limit: int, cursor: str | None = None, *, name: str | None = None, space_hash: str | None = None
) -> Page[SupernetOut]:
    """One page of supernets, newest first. Raises what `queries.page` does."""
    rows, following = queries.page(session, limit, cursor, name=name, space_hash=space_hash)
    return Page(items=[show_supernet(row) for row in rows], next=following)


def _fields(supernet: Supernet) -> dict[str, Any]:
    manifest = supernet.manifest
    return {
        "id": supernet.id,
        "name": supernet.name,
        "bundle_hash": supernet.bundle_hash,
        "space_hash": supernet.space_hash,
        "family": manifest["space"]["family"],
        "classes": manifest["classes"],
        "resolutions": manifest["space"]["resolutions"],
        "predictor": supernet.predictor_card,
        "predictor_warning": ranking_warning(supernet.predictor_card or {}),
        "created_at": supernet.created_at,
    }
