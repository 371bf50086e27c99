"""Scopes: what the holder of a key may do. Every route of the API and of the pages declares the scope that it needs."""

from collections.abc import Iterable
from typing import Literal, get_args

from service.errors import InvalidError

Scope = Literal["read", "search", "device", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MEANINGS: dict[Scope, str] = {
    "read": "see everything that is stored, and download ONNX files and the probe",
    "search": "as read; also create and cancel searches and fine-tunings",
    "device": "as read; also register devices, claim measurement jobs and post measurements",
    "admin": "everything, such as registering supernets",
}
INCLUDED: dict[Scope, frozenset[Scope]] = {
    "read": frozenset({"read"}),
    "search": frozenset({"read", "search"}),
    "device": frozenset({"read", "device"}),
    "admin": frozenset(SCOPES),
}


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """These scopes and all that they include."""
    return frozenset[Scope]().union(*(INCLUDED[scope] for scope in scopes))


def read_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes with these names, each once, in the order of `SCOPES`.

    Raises:
        InvalidError: one of the names is no scope, or none is given.
    """
    names = set(texts)
    if unknown := sorted(names - set(SCOPES)):
        raise InvalidError(f"{unknown[0]!r} is no scope; choose from {', '.join(SCOPES)}")
    if not names:
        raise InvalidError(f"a key needs a scope; choose from {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in names)
