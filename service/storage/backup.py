"""Backups of a service on SQLite: the database and the files that it names, in one tar file.

The first member, `manifest.json`, gives size and SHA-256 of all others. The database is copied with SQLite's online
backup, so the service can run meanwhile. Files of the store never change, so they are copied after it.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import make_url

from service.errors import ConflictError, InvalidError, NotFoundError
from service.storage.database import Database
from service.storage.garbage import artifact_hashes, named_hashes
from service.storage.store import Store
from service.storage.tables import now
from supernet.files import NAME_LENGTH, real, sha256, sync

FORMAT = 1
MANIFEST, DATABASE = "manifest.json", "supple.db"
MEMBER = re.compile(r"supple\.db|objects/([0-9a-f]{64})|bundles/([0-9a-f]{64})/([A-Za-z0-9._-]{1,120})")
NO_SQLITE = (
    "backups are of services on SQLite; this one is on PostgreSQL: copy its database with pg_dump first, then the store"
)


@dataclass(frozen=True)
class Backup:
    """What a backup holds. missing: hashes that the database names and the store does not have."""

    objects: int
    bundles: int
    size: int  # bytes
    missing: list[str]


def write_backup(database_url: str, store: Store, path: Path) -> Backup:
    """Write a backup under a temporary name, then rename it to `path`. Only its owner can read it.

    Raises:
        InvalidError: the database is not on SQLite. DamagedError: a file in the store was altered. OSError: no room.
    """
    source = sqlite_file(database_url)
    path = real(path)
    temporary = path.with_name(f".{path.name[:NAME_LENGTH]}.{os.getpid()}.tmp")
    with tempfile.TemporaryDirectory(prefix=".supple-backup-", dir=path.parent) as folder:
        snapshot = Path(folder) / DATABASE
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(snapshot)) as copy:
            live.backup(copy)
        members, missing = _members(snapshot, store)
        files: dict[str, Any] = {
            name: {"sha256": sha256(file), "size": file.stat().st_size} for name, file in members.items()
        }
        manifest = json.dumps({"format": FORMAT, "created": now().isoformat(), "files": files}, indent=1).encode()
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                with tarfile.open(fileobj=file, mode="w") as archive:
                    archive.addfile(_entry(MANIFEST, len(manifest)), io.BytesIO(manifest))
                    for name, member in members.items():
                        with open(member, "rb") as content:
                            archive.addfile(_entry(name, files[name]["size"]), content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync(path.parent)
    bundles = {name.split("/")[1] for name in members if name.startswith("bundles/")}
    objects = sum(name.startswith("objects/") for name in members)
    return Backup(objects, len(bundles), path.stat().st_size, missing)


def restore_backup(database_url: str, store: Store, path: Path) -> Backup:
    """Restore a backup where no database file is and the store is empty.

    The whole file is verified before anything is written. The database appears last and at once. If writing fails, what
    was written is removed.

    Raises:
        InvalidError: the file is not a whole backup, or the database is to be on PostgreSQL. ConflictError: the target
            is not empty. StoreFullError, OSError: no room.
    """
    target = sqlite_file(database_url)
    if target.exists():
        raise ConflictError(
            f"{target} exists; restore where there is no database, such as another SUPPLE_DATA_DIRECTORY"
        )
    if (found := next(iter(store.contents()), None)) is not None:
        raise ConflictError(
            f"the store {store.location} is not empty: it holds {found.kind} {found.name}; name an empty one"
        )
    files = _verified(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".supple-restore-", dir=target.parent) as folder:
        try:
            with _opened(path) as archive:
                for member in archive:
                    if member.name != MANIFEST:
                        _unpack(archive, member, store, Path(folder))
            for bundle in sorted(Path(folder).glob("bundle-*")):
                store.add_bundle(bundle, bundle.name.removeprefix("bundle-"))
            sync(Path(folder) / DATABASE)
            (Path(folder) / DATABASE).rename(target)
        except BaseException:
            for stored in list(store.contents()):
                store.remove(stored)
            raise
    sync(target.parent)
    bundles = {name.split("/")[1] for name in files if name.startswith("bundles/")}
    return Backup(sum(name.startswith("objects/") for name in files), len(bundles), path.stat().st_size, [])


def sqlite_file(database_url: str) -> Path:
    """The file of a SQLite database. Raises InvalidError for PostgreSQL."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise InvalidError(NO_SQLITE)
    return Path(url.database)


def _members(snapshot: Path, store: Store) -> tuple[dict[str, Path], list[str]]:
    """The files of a backup by their names in it, and the hashes of those that the store lacks."""
    database = Database(f"sqlite:///{snapshot}")
    try:
        with database.reading() as session:
            named, artifacts = named_hashes(session), artifact_hashes(session)
    finally:
        database.close()
    members, found = {DATABASE: snapshot}, set()
    for stored in store.contents():
        if stored.name not in named:
            continue
        with suppress(NotFoundError):  # removed since it was listed; then it is missing
            if stored.kind == "object":
                members[f"objects/{stored.name}"] = store.path(stored.name)
            elif stored.kind == "bundle":
                files = (path for path in store.bundle(stored.name).iterdir() if path.is_file())
                members |= {f"bundles/{stored.name}/{path.name}": path for path in files}
            found.add(stored.name)
    return members, sorted(artifacts - found)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise InvalidError(f"{path} is not a backup, or was cut short: {error}") from error


def _verified(path: Path) -> dict[str, Any]:
    """The files that a backup lists, after a check that it holds exactly these."""
    with _opened(path) as archive:
        first = archive.next()
        content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
        try:
            manifest = json.load(content) if content is not None else {}
        except ValueError as error:
            raise InvalidError(f"{path} is not a backup: its {MANIFEST} is not JSON") from error
        if manifest.get("format") != FORMAT:
            raise InvalidError(f"{path} is not a backup of format {FORMAT}, which `supple backup` writes")
        files: dict[str, Any] = dict(manifest["files"])
        left = dict(files)
        for member in archive:
            if member.name == MANIFEST:
                continue
            listed = left.pop(member.name, None)
            if listed is None or not member.isreg() or not MEMBER.fullmatch(member.name):
                raise InvalidError(f"{path} holds {member.name!r}, which its manifest does not list")
            if (digest := _digest(archive, member)) != listed["sha256"]:
                raise InvalidError(
                    f"{path} was altered: {member.name} has the SHA-256 {digest}, not {listed['sha256']}"
                )
        if left:
            raise InvalidError(f"{path} is incomplete: {sorted(left)[0]} is missing")
    return files


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None  # a regular file, as `_verified` checked
    return content


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest, content = hashlib.sha256(), _content(archive, member)
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, store: Store, folder: Path) -> None:
    """Put an object into the store, and another file into the folder."""
    match = MEMBER.fullmatch(member.name)
    assert match is not None  # as `_verified` checked
    digest, bundle, name = match.groups()
    if digest:
        store.put(_content(archive, member).read())
        return
    target = folder / f"bundle-{bundle}" / name if bundle else folder / DATABASE
    target.parent.mkdir(exist_ok=True)
    with open(target, "wb") as file:
        shutil.copyfileobj(_content(archive, member), file)
