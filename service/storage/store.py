"""The artifact store: files named by their SHA-256, and bundles. What is read is compared with its hash.

A store is a directory (`directory.py`) or, behind a cache, anything that fsspec reaches (`remote.py`). Both have the
same layout: `objects/ab/ab12...` and `bundles/HASH/FILE`. Error messages reach the API's callers, so they name no path;
the log names it.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stored:
    """Something in a store. name: the SHA-256; of a leftover, any text. size: bytes.

    kind: a leftover is what an interrupted write left behind.
    """

    kind: Literal["object", "bundle", "leftover"]
    name: str
    size: int
    modified: datetime  # last stored; storing the same content again counts


class Store(Protocol):
    """Artifacts and registered bundles. Every method raises UnavailableError if the store does not answer."""

    location: str  # for the log and for people

    def put(self, content: bytes) -> str:
        """Store `content`. Returns its SHA-256, 64 hexadecimal digits.

        Raises:
            StoreFullError: there is no room. Nothing was stored.
        """

    def path(self, digest: str) -> Path:
        """The path of an artifact's file on this machine, for reading.

        Raises:
            NotFoundError: the store does not have it. DamagedError: its content has another hash.
        """

    def add_bundle(self, source: Path, digest: str) -> Path:
        """Store a copy of the bundle directory `source` under its hash. Returns the directory of a copy.

        Raises:
            StoreFullError: there is no room. Nothing was stored.
        """

    def bundle(self, digest: str) -> Path:
        """The directory of a registered bundle on this machine. `Bundle.open` verifies its files.

        Raises:
            NotFoundError: the store does not have it.
        """

    def bundle_file(self, digest: str, name: str) -> Path:
        """One file of a registered bundle, for reading. The others need not be on this machine.

        Raises:
            NotFoundError: the store does not have it. DamagedError: its hash is not the manifest's.
        """

    def check(self) -> None:
        """Write an empty file. Raises OSError or StoreFullError if the store cannot take files."""

    def contents(self) -> Iterator[Stored]:
        """Everything in the store."""

    def remove(self, stored: Stored) -> bool:
        """Remove something, unless it was stored again since `contents` listed it. Returns whether it was removed."""


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An npz file of these arrays, at compression level 1: numpy's level is four times slower and saves little more."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # a fixed date: equal arrays give equal bytes
            file.writestr(info, entry.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
    return buffer.getvalue()


def unpack(packed: bytes) -> dict[str, NDArray[Any]]:
    """The arrays that `pack` packed."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)
