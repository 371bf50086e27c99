"""A store behind an address that fsspec reaches, such as s3://bucket/supple, with a cache on this machine.

Libraries read networks, weights and downloads from files, so what is read is first copied into the cache, which is a
`DirectoryStore`. Every copy is compared with its hash. A bundle's manifest is written last and removed first: a bundle
without a manifest is none.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem

from service.errors import DamagedError, NotFoundError, SuppleError, UnavailableError
from service.storage.directory import MANIFEST, DirectoryStore, compare, listed_hash
from service.storage.store import Stored

log = logging.getLogger("supple")
KEPT_SECONDS = 3600  # the cache drops nothing that was copied or read within this time
MODIFIED = ("LastModified", "mtime", "updated", "created")  # what file systems call the time of a file's last change


class RemoteStore:
    """Artifacts and registered bundles behind an address.

    root: where they lie in `files`. cache_bytes: the cache drops what was not used for longest when it is larger.
    """

    def __init__(self, files: AbstractFileSystem, root: str, location: str, cache: Path, cache_bytes: int) -> None:
        self.location = location
        self._files = files
        self._root = root.rstrip("/")
        self._cache = DirectoryStore(cache)
        self._cache_bytes = cache_bytes

    def put(self, content: bytes) -> str:
        """Store `content`. Returns its SHA-256. It is sent even if it is there, so that its age starts anew."""
        digest = self._cache.put(content)
        with self._reaching():
            self._files.pipe_file(self._object(digest), content)
        return digest

    def path(self, digest: str) -> Path:
        """The path of an artifact's copy in the cache."""
        return self._copy(self._object(digest), digest, f"the artifact store has no file {digest}")

    def add_bundle(self, source: Path, digest: str) -> Path:
        """Store a copy of the bundle directory `source` under its hash. Returns a copy's directory in the cache."""
        names = json.loads((source / MANIFEST).read_bytes())["files"]
        with self._reaching():
            if not self._files.exists(self._bundle(digest, MANIFEST)):
                for name in names:
                    self._files.put_file(str(source / name), self._bundle(digest, name))
            self._files.put_file(str(source / MANIFEST), self._bundle(digest, MANIFEST))
        return self._cache.add_bundle(source, digest)

    def bundle(self, digest: str) -> Path:
        """The directory of a bundle's copy in the cache."""
        if not self._cache.has_bundle(digest):
            missing = f"the artifact store has no bundle {digest}; add it with `supple register`"
            self._make_room()
            with self._reaching(missing):
                self._files.info(self._bundle(digest, MANIFEST))
                self._cache.receive_bundle(digest, lambda path: self._fetch_bundle(digest, path))
        return self._cache.bundle(digest)

    def bundle_file(self, digest: str, name: str) -> Path:
        """The path of a copy of one file of a bundle in the cache."""
        if self._cache.has_bundle(digest):
            return self._cache.bundle_file(digest, name)
        missing = f"the artifact store has no bundle {digest}; add it with `supple register`"
        manifest = self._copy(self._bundle(digest, MANIFEST), digest, missing)
        expected = listed_hash(manifest.read_bytes(), digest, name)
        return self._copy(
            self._bundle(digest, name), expected, f"the bundle {digest} in the artifact store has no file {name}"
        )

    def check(self) -> None:
        """Write an empty file, and remove it."""
        name = f"{self._root}/check/{uuid.uuid4().hex}"
        with self._reaching():
            self._files.pipe_file(name, b"")
            self._files.rm_file(name)
        self._cache.check()

    def contents(self) -> Iterator[Stored]:
        """Everything in the store. The cache does not count."""
        with self._reaching():
            found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        bundles: dict[str, dict[str, dict[str, Any]]] = {}
        for name, info in found.items():
            parts = PurePosixPath(name.lstrip("/")).relative_to(self._root.lstrip("/")).parts
            if parts[0] == "objects" and len(parts) == 3:
                yield Stored("object", parts[2], info["size"], _modified(info))
            elif parts[0] == "bundles" and len(parts) > 2:
                bundles.setdefault(parts[1], {})["/".join(parts[2:])] = info
            elif parts[0] == "check":
                yield Stored("leftover", "/".join(parts), info["size"], _modified(info))
        for digest, files in bundles.items():
            size = sum(info["size"] for info in files.values())
            newest = _modified(files[MANIFEST]) if MANIFEST in files else max(map(_modified, files.values()))
            yield Stored("bundle", digest, size, newest)

    def remove(self, stored: Stored) -> bool:
        """Remove something, unless it was stored again since `contents` listed it."""
        names = {"object": self._object(stored.name), "bundle": self._bundle(stored.name, MANIFEST)}
        name = names.get(stored.kind, f"{self._root}/{stored.name}")
        with self._reaching():
            if self._files.exists(name):
                if _modified(self._files.info(name)) != stored.modified:
                    return False
                self._files.rm_file(name)
            if stored.kind == "bundle":
                for file in self._files.find(self._bundle(stored.name, "")):
                    self._files.rm_file(file)
        return True

    def _object(self, digest: str) -> str:
        return f"{self._root}/objects/{digest[:2]}/{digest}"

    def _bundle(self, digest: str, name: str) -> str:
        return f"{self._root}/bundles/{digest}/{name}".rstrip("/")

    def _copy(self, name: str, digest: str, missing: str) -> Path:
        """The path of a file's copy in the cache. missing: the message if the store has no such file."""
        if self._cache.has(digest):
            try:
                return self._cache.path(digest)
            except DamagedError:
                self._cache.drop(digest)
        self._make_room()
        with self._reaching(missing):
            return self._cache.receive(digest, lambda path: self._files.get_file(name, str(path)))

    def _fetch_bundle(self, digest: str, directory: Path) -> None:
        """Copy the files of a bundle into a directory, and compare them with their hashes."""
        self._files.get_file(self._bundle(digest, MANIFEST), str(directory / MANIFEST))
        compare(directory / MANIFEST, digest)
        for name, expected in json.loads((directory / MANIFEST).read_bytes())["files"].items():
            target = directory / Path(name).name
            self._files.get_file(self._bundle(digest, name), str(target))
            compare(target, expected)

    def _make_room(self) -> None:
        """Drop from the cache what was not used for longest, if the cache is too large."""
        contents = sorted(self._cache.contents(), key=lambda stored: stored.modified)
        size = sum(stored.size for stored in contents)
        for stored in contents:
            if size <= self._cache_bytes or time.time() - stored.modified.timestamp() < KEPT_SECONDS:
                return
            if self._cache.remove(stored):
                size -= stored.size

    @contextmanager
    def _reaching(self, missing: str = "") -> Iterator[None]:
        """Turn whatever a file system raises into errors of the service. missing: the message if there is no file."""
        try:
            yield
        except SuppleError:
            raise
        except FileNotFoundError as error:
            log.warning("%s: %s", self.location, error)
            if missing:
                raise NotFoundError(missing) from error
            raise UnavailableError("the artifact store is not there; the log says why") from error
        except Exception as error:  # of any library behind fsspec
            log.error("%s cannot be used: %s: %s", self.location, type(error).__name__, error)
            raise UnavailableError("the artifact store does not answer, or refuses; the log says why") from error


def _modified(info: Mapping[str, Any]) -> datetime:
    """When a file was last changed, by what the file system says of it."""
    value = next(info[key] for key in MODIFIED if key in info)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(value), UTC)
