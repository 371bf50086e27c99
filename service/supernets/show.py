"""A supernet as the API shows it."""

from typing import Any

from evolution.predictors.accuracy import ranking_warning
from service.storage.tables import Supernet
from service.supernets.schemas import SupernetDetail, SupernetOut

DIGITS = 16  # of a hash, that serve as a short id


def _card(bundle: Any) -> dict[str, Any] | None:
    from evolution.predictors.accuracy import AccuracyPredictor

    if bundle.predictor_path is None:
        return None
    return dict(AccuracyPredictor.load(bundle.predictor_path, bundle.space).card)


def summary(supernet: Supernet) -> SupernetOut:
    """A supernet in a list."""
    return SupernetOut(**_fields(supernet))


def detail(supernet: Supernet) -> SupernetDetail:
    """A supernet by itself."""
    manifest = dict(supernet.manifest)
    return SupernetDetail(**_fields(supernet), space=manifest.pop("space"), provenance=manifest, report=supernet.report)


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
