"""Registering bundles, and what is said of a supernet."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from evolution.accuracy import poor_ranking
from evolution.costs import CostTables
from service.devices.rules import register_published
from service.errors import InvalidError
from service.models import Supernet, now
from service.store import Store
from service.supernets import queries
from service.supernets.schemas import SupernetDetail, SupernetOut

DIGITS = 16  # of a hash, that serve as a short id


def register(session: Session, store: Store, bundle_path: Path) -> Supernet:
    """Check a bundle, keep a copy of it in the store and make it a supernet, and its devices the service's.

    Doing so again changes nothing.

    Raises:
        BundleError (a ValueError): a file is missing or altered. StoreFullError: no room for the copy. ConflictError: a
            device of the same name has other settings. InvalidError: a device in the bundle cannot be read.
    """
    from supernet.bundle import Bundle  # loads torch, which the service otherwise leaves to its workers

    bundle = Bundle.open(bundle_path)
    kept = Bundle.open(store.add_bundle(bundle.path, bundle.hash))
    predictor = kept.manifest["files"].get("predictor.npz")
    supernet = queries.add(
        session,
        {
            "id": kept.hash[:DIGITS],
            "bundle_hash": kept.hash,
            "name": kept.name,
            "space_hash": kept.space.hash,
            "manifest": dict(kept.manifest),
            "report": kept.report,
            "predictor_version": predictor and predictor[:DIGITS],
            "predictor_card": _card(kept),
            "created_at": now(),
        },
    )
    for name, device in kept.devices.items():
        register_published(session, store, name, device, CostTables(kept.space))
    return supernet


def check_extractable(supernet: Supernet) -> None:
    """Refuse what needs subnets of a supernet that gives none.

    Raises:
        InvalidError: for `why_not_extractable`.
    """
    if reason := why_not_extractable(supernet):
        raise InvalidError(reason)


def why_not_extractable(supernet: Supernet) -> str | None:
    """What the supernet's bundle was made without that recalibrated subnets need, and what to do; None if nothing."""
    files, name = supernet.manifest["files"], f"supernet {supernet.id} ({supernet.name})"
    if "weights.safetensors" not in files:
        return (
            f"{name} was made without a checkpoint, so it can be searched but neither verified nor exported; make a "
            "bundle with `supple import-ofa --checkpoint FILE.pth` and register that"
        )
    if "calibration.npz" not in files:
        return (
            f"{name} has no calibration images to recalibrate batch norm with; make a bundle with `supple import-ofa "
            "--checkpoint FILE.pth --calibration DIR` and register that, or use `supple export --batch-norm stored`"
        )
    return None


def register_stored(session: Session, store: Store, bundle_hash: str) -> SupernetDetail:
    """Make a supernet of a bundle that the store already has.

    Raises:
        NotFoundError: the store has no such bundle. InvalidError: it is another one. What `register` raises.
    """
    from supernet.bundle import Bundle  # loads torch

    path = store.bundle(bundle_hash)
    if (found := Bundle.open(path).hash) != bundle_hash:
        raise InvalidError(
            f"the bundle in the store under {bundle_hash} has the hash {found}; remove it and add it again with "
            "`supple register`"
        )
    return detail(register(session, store, path))


def _card(bundle: Any) -> dict[str, Any] | None:
    from evolution.accuracy import AccuracyPredictor

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
        "predictor_warning": poor_ranking(supernet.predictor_card or {}),
        "created_at": supernet.created_at,
    }
