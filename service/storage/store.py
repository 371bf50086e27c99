"""The artifact store: files named by their SHA-256 in a directory.

A file appears whole or not at all: it is written to a staging directory, synced, and renamed. No file changes in place.

Error messages reach the API's callers, so they name no path; the log names it.
"""

import errno
import hashlib
import io
import logging
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import NotFoundError, StoreFullError
from supernet.files import sync, write_synced

log = logging.getLogger("supple")


class Store:
    """Artifacts and registered bundles under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        for directory in (self._objects, self._bundles, self._staging):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def _objects(self) -> Path:
        return self.root / "objects"

    @property
    def _bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def _staging(self) -> Path:
        return self.root / "staging"

    def put(self, content: bytes) -> str:
        """Store `content`. Returns its SHA-256, 64 hexadecimal digits.

        Raises:
            StoreFullError: there is no room. Nothing was stored.
        """
        digest = hashlib.sha256(content).hexdigest()
        target = self._object(digest)
        if target.exists():
            return digest
        with self._staged(digest) as staged:
            write_synced(staged, content)
            _publish(staged, target)
        return digest

    def path(self, digest: str) -> Path:
        """The path of an artifact's file, for reading.

        Raises:
            NotFoundError: the store does not have it.
        """
        path = self._object(digest)
        if not path.is_file():
            log.warning("%s is not there", path)
            raise NotFoundError(f"the artifact store has no file {digest}")
        return path

    def add_bundle(self, source: Path, digest: str) -> Path:
        """Store a copy of the bundle directory `source` under its hash. Returns the copy's directory.

        Raises:
            StoreFullError: there is no room. Nothing was stored.
        """
        target = self._bundles / digest
        if target.exists() or source.absolute() == target:
            return target
        with self._staged(digest) as staged:
            # Contents alone: with the modes of a read-only folder nobody but root could rename or remove the copy.
            shutil.copytree(source, staged, copy_function=shutil.copyfile)
            for path in (staged, *staged.rglob("*")):
                if path.is_file():
                    sync(path)
                else:
                    path.chmod(path.stat().st_mode | stat.S_IRWXU)
            try:
                _publish(staged, target)
            except OSError:
                if not target.exists():  # otherwise another process stored the same content first
                    raise
        return target

    def bundle(self, digest: str) -> Path:
        """The directory of a registered bundle.

        Raises:
            NotFoundError: the store does not have it.
        """
        path = self._bundles / digest
        if not path.is_dir():
            log.warning("%s is not there", path)
            raise NotFoundError(f"the artifact store has no bundle {digest}; add it with `supple register`")
        return path

    def check(self) -> None:
        """Write an empty file. Raises OSError or StoreFullError if the store cannot take files."""
        with self._staged("check") as staged:
            staged.write_bytes(b"")

    def _object(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    @contextmanager
    def _staged(self, name: str) -> Iterator[Path]:
        """A path to write to, on the store's file system. Whatever is still there at the end is removed."""
        try:
            with tempfile.TemporaryDirectory(prefix=f"{name[:16]}-", dir=self._staging) as directory:
                yield Path(directory) / "content"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                log.error("no room left at %s: %s", self.root, error)
                raise StoreFullError(
                    f"no room left in the artifact store ({os.strerror(error.errno)}); free some and try again"
                ) from error
            raise


def _publish(staged: Path, target: Path) -> None:
    """Rename finished content to its final path, and sync the directory so that the rename survives a power cut."""
    target.parent.mkdir(exist_ok=True)
    staged.replace(target)
    sync(target.parent)


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
