"""Registering bundles as supernets."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from service.devices.register import register_published_device
from service.errors import InvalidError
from service.storage.store import Store
from service.storage.tables import Supernet, now
from service.supernets import queries
from service.supernets.schemas import SupernetDetail
from service.supernets.show import show_supernet_detail
from supernet.bundle import PREDICTOR, Bundle

DIGITS = 16  # of a hash; they serve as a short id


def register_supernet(session: Session, store: Store, bundle_path: Path, images: Path | None = None) -> Supernet:
    """Check a bundle, copy it into the store, and register it as a supernet. Its devices are registered as well.

    Registering it again changes nothing but `images`, where they are given.

    images: the folder of its training images, or of a named dataset's downloads, for fine-tuning in workers.

    Raises:
        BundleError (a ValueError): a file is missing or altered. StoreFullError: no room for the copy. ConflictError: a
            device of the same name has other settings. InvalidError: a device in the bundle cannot be read, or `images`
            are given for a bundle that `supple train` did not make.
    """
    source = Bundle.open(bundle_path)
    bundle = Bundle.open(store.add_bundle(source.path, source.hash))
    predictor = bundle.manifest["files"].get(PREDICTOR)
    supernet = queries.add(
        session,
        {
            "id": bundle.hash[:DIGITS],
            "bundle_hash": bundle.hash,
            "name": bundle.name,
            "space_hash": bundle.space.hash,
            "manifest": dict(bundle.manifest),
            "report": bundle.report,
            "predictor_version": predictor and predictor[:DIGITS],
            "predictor_card": _predictor_card(bundle),
            "created_at": now(),
        },
    )
    if images is not None and "config" not in bundle.manifest:
        raise InvalidError(
            f"{source.path} was not made by `supple train`, so it records no recipe to train its candidates by; leave "
            "--images out"
        )
    if images is not None:
        supernet.images = str(images.absolute())
    for name, device in bundle.devices.items():
        register_published_device(session, store, name, device, CostTables(bundle.space))
    return supernet


def register_stored_bundle(session: Session, store: Store, bundle_hash: str) -> SupernetDetail:
    """Register a bundle that the store already has.

    Raises:
        NotFoundError: the store has no such bundle. InvalidError: its hash is another. What `register_supernet` raises.
    """
    path = store.bundle(bundle_hash)
    if (actual_hash := Bundle.open(path).hash) != bundle_hash:
        raise InvalidError(
            f"the bundle in the store under {bundle_hash} has the hash {actual_hash}; remove it and add it again with "
            "`supple register`"
        )
    return show_supernet_detail(register_supernet(session, store, path))


def _predictor_card(bundle: Bundle) -> dict[str, Any] | None:
    if bundle.predictor_path is None:
        return None
    return dict(AccuracyPredictor.load(bundle.predictor_path, bundle.space).card)
