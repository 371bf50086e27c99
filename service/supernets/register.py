"""Registering bundles, and what is said of a supernet."""

from pathlib import Path

from sqlalchemy.orm import Session

from evolution.costs import CostTables
from service.devices.register import register_published
from service.errors import InvalidError
from service.storage.store import Store
from service.storage.tables import Supernet, now
from service.supernets import queries
from service.supernets.schemas import SupernetDetail
from service.supernets.show import DIGITS, _card, detail
from supernet.bundle import Bundle


def register(session: Session, store: Store, bundle_path: Path) -> Supernet:
    """Check a bundle, keep a copy of it in the store and make it a supernet, and its devices the service's.

    Doing so again changes nothing.

    Raises:
        BundleError (a ValueError): a file is missing or altered. StoreFullError: no room for the copy. ConflictError: a
            device of the same name has other settings. InvalidError: a device in the bundle cannot be read.
    """
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


def register_stored(session: Session, store: Store, bundle_hash: str) -> SupernetDetail:
    """Make a supernet of a bundle that the store already has.

    Raises:
        NotFoundError: the store has no such bundle. InvalidError: it is another one. What `register` raises.
    """
    path = store.bundle(bundle_hash)
    if (found := Bundle.open(path).hash) != bundle_hash:
        raise InvalidError(
            f"the bundle in the store under {bundle_hash} has the hash {found}; remove it and add it again with "
            "`supple register`"
        )
    return detail(register(session, store, path))
