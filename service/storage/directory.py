"""A store in a directory.

A file appears whole or not at all: it is written to a staging directory, synced, and renamed. No file changes in place.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from service.errors import DamagedError, NotFoundError, StoreFullError
from service.storage.store import Stored
from supernet.files import sha256, sync, write_synced

log = logging.getLogger("supple")
MANIFEST = "manifest.json"
REMEMBERED = 10_000  # files that were verified


class DirectoryStore:
    """Artifacts and registered bundles under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.location = str(self.root)
        self._verified: dict[Path, tuple[int, ...]] = {}
        self._lock = threading.Lock()
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
        """Store `content`. Returns its SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        target = self._object(digest)
        if not _touch(target):
            with self._staged(digest) as staged:
                write_synced(staged, content)
                _publish(staged, target)
        return digest

    def receive(self, digest: str, write: Callable[[Path], None]) -> Path:
        """Store the file that `write` writes. Returns its path.

        Raises:
            DamagedError: it has another hash. StoreFullError: there is no room. Nothing was stored.
        """
        target = self._object(digest)
        with self._staged(digest) as staged:
            write(staged)
            compare(staged, digest)
            sync(staged)
            _publish(staged, target)
        return target

    def path(self, digest: str) -> Path:
        """The path of an artifact's file, for reading."""
        path = self._object(digest)
        if not path.is_file():
            log.warning("%s is not there", path)
            raise NotFoundError(f"the artifact store has no file {digest}")
        self._verify(path, digest)
        return path

    def has(self, digest: str) -> bool:
        """Whether an artifact is there."""
        return self._object(digest).is_file()

    def drop(self, digest: str) -> None:
        """Remove an artifact."""
        self._object(digest).unlink(missing_ok=True)

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle is there."""
        return (self._bundles / digest).is_dir()

    def add_bundle(self, source: Path, digest: str) -> Path:
        """Store a copy of the bundle directory `source` under its hash. Returns the copy's directory."""
        target = self._bundles / digest
        if _touch(target) or source.absolute() == target:
            return target
        # Contents alone: with the modes of a read-only folder nobody but root could rename or remove the copy.
        return self.receive_bundle(
            digest, lambda path: shutil.copytree(source, path, copy_function=shutil.copyfile, dirs_exist_ok=True)
        )

    def receive_bundle(self, digest: str, write: Callable[[Path], object]) -> Path:
        """Store the bundle whose files `write` writes into an empty directory. Returns the bundle's directory."""
        target = self._bundles / digest
        with self._staged(digest) as staged:
            staged.mkdir()
            write(staged)
            for path in (staged, *staged.rglob("*")):
                if path.is_file():
                    sync(path)
                else:
                    path.chmod(path.stat().st_mode | stat.S_IRWXU)
            os.utime(staged)  # a copy may have the age of its source
            try:
                _publish(staged, target)
            except OSError:
                if not target.exists():  # otherwise another process stored the same content first
                    raise
        return target

    def bundle(self, digest: str) -> Path:
        """The directory of a registered bundle."""
        path = self._bundles / digest
        if not path.is_dir():
            log.warning("%s is not there", path)
            raise NotFoundError(f"the artifact store has no bundle {digest}; add it with `supple register`")
        return path

    def bundle_file(self, digest: str, name: str) -> Path:
        """One file of a registered bundle, for reading."""
        bundle = self.bundle(digest)
        manifest = bundle / MANIFEST
        self._verify(manifest, digest)
        expected = listed_hash(manifest.read_bytes(), digest, name)
        if not (bundle / name).is_file():
            log.warning("%s is not there", bundle / name)
            raise NotFoundError(f"the bundle {digest} in the artifact store has no file {name}")
        self._verify(bundle / name, expected)
        return bundle / name

    def check(self) -> None:
        """Write an empty file."""
        with self._staged("check") as staged:
            staged.write_bytes(b"")

    def contents(self) -> Iterator[Stored]:
        """Everything in the store."""
        for path in self._objects.glob("*/*"):
            with suppress(FileNotFoundError):
                yield Stored("object", path.name, path.stat().st_size, _modified(path))
        for kind, folder in (("bundle", self._bundles), ("leftover", self._staging)):
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    files = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
                    yield Stored("bundle" if kind == "bundle" else "leftover", path.name, sum(files), _modified(path))

    def remove(self, stored: Stored) -> bool:
        """Remove something, unless it was stored again since `contents` listed it."""
        path = self._where(stored)
        try:
            if _modified(path) != stored.modified:
                return False
            if stored.kind == "object":
                path.unlink()
            elif stored.kind == "leftover":
                shutil.rmtree(path)
            else:
                with self._staged(stored.name) as staged:
                    path.rename(staged)  # at once, so that nobody sees half a bundle
        except FileNotFoundError:
            return False
        return True

    def _where(self, stored: Stored) -> Path:
        folders = {"bundle": self._bundles / stored.name, "leftover": self._staging / stored.name}
        return folders.get(stored.kind) or self._object(stored.name)

    def _object(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    def _verify(self, path: Path, digest: str) -> None:
        """Compare a file with its hash, once for each state of the file."""
        info = path.stat()
        state = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        with self._lock:
            if self._verified.get(path) == state:
                return
        compare(path, digest)
        with self._lock:
            if len(self._verified) >= REMEMBERED:
                self._verified.clear()
            self._verified[path] = state

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


def listed_hash(manifest: bytes, digest: str, name: str) -> str:
    """The hash of one file of a bundle, as its manifest says.

    Raises:
        NotFoundError: the manifest does not list the file.
    """
    files = json.loads(manifest)["files"]
    if name not in files:
        raise NotFoundError(f"the bundle {digest} in the artifact store has no file {name}")
    return str(files[name])


def compare(path: Path, digest: str) -> None:
    """Compare a file with its hash. Raises DamagedError."""
    if (actual := sha256(path)) != digest:
        log.error("%s has the SHA-256 %s, not %s", path, actual, digest)
        raise DamagedError(
            f"a file in the artifact store was altered: its SHA-256 is {actual}, not {digest}; take it from a backup"
        )


def _touch(path: Path) -> bool:
    """Whether a path exists. If it does, its age starts anew, so that `supple gc` leaves it alone for now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _publish(staged: Path, target: Path) -> None:
    """Rename finished content to its final path, and sync the directory so that the rename survives a power cut."""
    target.parent.mkdir(exist_ok=True)
    staged.replace(target)
    sync(target.parent)
