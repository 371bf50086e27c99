"""Stores: one contract for a directory, for memory behind fsspec, and for an S3 server."""

import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from service.errors import DamagedError, InvalidError, NotFoundError, StoreFullError, UnavailableError
from service.storage.directory import DirectoryStore
from service.storage.locations import open_store
from service.storage.remote import RemoteStore
from service.storage.store import Store, Stored


class Place:
    """A store, and what lies where it keeps its files."""

    def __init__(self, location: str, cache: Path) -> None:
        self.location = location
        self._cache = cache
        self.files, self.root = fsspec.core.url_to_fs(location, use_listings_cache=False)

    def store(self, cache_gib: float = 1.0) -> Store:
        """A process that opens the store, on another machine than the last."""
        return open_store(self.location, self._cache / uuid.uuid4().hex, cache_gib)

    def names(self) -> list[str]:
        found = self.files.find(self.root)
        return sorted(name.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/") for name in found)

    def alter(self, name: str, content: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", content)


@pytest.fixture(params=["directory", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    locations: dict[str, Callable[[], str]] = {
        "directory": lambda: str(tmp_path / "store"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}/store",
        "s3": lambda: f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}",
    }
    return Place(locations[request.param](), tmp_path / "caches")


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def files(store: DirectoryStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def make_bundle(folder: Path) -> tuple[Path, str]:
    """A bundle as far as a store knows it, and its hash."""
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    manifest = json.dumps({"files": {"weights.safetensors": hashlib.sha256(b"weights").hexdigest()}}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return folder, hashlib.sha256(manifest).hexdigest()


# The contract.


def test_a_file_is_found_by_its_hash(place: Place) -> None:
    digest = place.store().put(b"content")
    assert digest == hashlib.sha256(b"content").hexdigest()
    assert place.store().path(digest).read_bytes() == b"content"
    assert place.store().put(b"content") == digest
    assert place.names() == [f"objects/{digest[:2]}/{digest}"]


def test_what_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(NotFoundError, match="has no file 00"):
        place.store().path("00" * 32)
    with pytest.raises(NotFoundError, match="supple register"):
        place.store().bundle("00" * 32)
    with pytest.raises(NotFoundError, match="supple register"):
        place.store().bundle_file("00" * 32, "weights.safetensors")


def test_an_altered_file_is_not_read(place: Place) -> None:
    store = place.store()
    digest = store.put(b"content")
    place.alter(f"objects/{digest[:2]}/{digest}", b"c0ntent")
    with pytest.raises(DamagedError, match=f"its SHA-256 is {hashlib.sha256(b'c0ntent').hexdigest()}, not {digest}"):
        place.store().path(digest)


def test_a_bundle_is_kept_whole_and_verified(place: Place, tmp_path: Path) -> None:
    source, digest = make_bundle(tmp_path / "mine")
    kept = place.store().add_bundle(source, digest)
    assert (kept / "weights.safetensors").read_bytes() == b"weights"
    assert (place.store().bundle(digest) / "weights.safetensors").read_bytes() == b"weights"
    assert place.store().bundle_file(digest, "weights.safetensors").read_bytes() == b"weights"
    place.store().add_bundle(source, digest)
    assert place.names() == [f"bundles/{digest}/{name}" for name in ("manifest.json", "weights.safetensors")]
    with pytest.raises(NotFoundError, match=r"has no file predictor\.npz"):
        place.store().bundle_file(digest, "predictor.npz")
    place.alter(f"bundles/{digest}/weights.safetensors", b"altered")
    with pytest.raises(DamagedError):
        place.store().bundle_file(digest, "weights.safetensors")


def test_a_store_lists_what_it_has_and_removes_it(place: Place, tmp_path: Path) -> None:
    store = place.store()
    source, bundle = make_bundle(tmp_path / "mine")
    store.add_bundle(source, bundle)
    digest = store.put(b"content")
    contents = {stored.name: stored for stored in store.contents()}
    assert {stored.kind for stored in contents.values()} == {"object", "bundle"}
    assert contents[digest].size == 7
    assert contents[bundle].size == sum(path.stat().st_size for path in source.iterdir())
    assert all(abs(datetime.now(UTC) - stored.modified) < timedelta(minutes=1) for stored in contents.values())
    stale = Stored("object", digest, 7, contents[digest].modified - timedelta(days=1))
    assert not store.remove(stale), "it was stored again after it was listed"
    assert all(store.remove(stored) for stored in contents.values())
    assert place.names() == []
    for call in (place.store().path, place.store().bundle):
        with pytest.raises(NotFoundError):
            call(digest)


def test_a_check_leaves_nothing(place: Place) -> None:
    place.store().check()
    assert place.names() == []


# A directory.


def test_a_copy_of_a_read_only_bundle_is_its_owners(directory: DirectoryStore, tmp_path: Path) -> None:
    source, digest = make_bundle(tmp_path / "mine")
    for path in (*source.iterdir(), source):
        path.chmod(0o555 if path.is_dir() else 0o444)
    stored = directory.add_bundle(source, digest)
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (stored, *stored.iterdir()))
    assert (stored / "weights.safetensors").read_bytes() == b"weights"


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_public_messages_name_no_path_and_the_log_does(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for call in (directory.path, directory.bundle, lambda _: directory.put(b"content")):
        monkeypatch.setattr(os, "fsync", full_disk)
        caplog.clear()
        with pytest.raises((NotFoundError, StoreFullError)) as error:
            call("00" * 32)
        assert str(directory.root) not in str(error.value)
        assert str(directory.root) in caplog.text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing(directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StoreFullError, match=r"no room left in the artifact store .*free some"):
        directory.put(b"content")
    assert files(directory) == []
    monkeypatch.undo()
    assert directory.path(directory.put(b"content")).exists()


def test_another_error_of_the_disk_is_passed_on_and_leaves_nothing(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        directory.put(b"content")
    assert files(directory) == []


def test_a_full_disk_leaves_no_half_bundle(
    directory: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, digest = make_bundle(tmp_path / "mine")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreFullError):
        directory.add_bundle(source, digest)
    assert files(directory) == []


def test_the_check_says_whether_files_can_be_kept(directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.check()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(StoreFullError):
        directory.check()
    assert files(directory) == []


def test_a_file_is_hashed_once_as_long_as_it_stays(directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    digest = directory.put(b"content")

    def count(path: Path) -> str:
        hashed.append(path)
        return digest

    monkeypatch.setattr("service.storage.directory.sha256", count)
    for _ in range(3):
        directory.path(digest)
    assert len(hashed) == 1
    directory.path(digest).write_bytes(b"altered")
    directory.path(digest)
    assert len(hashed) == 2


# A cache.


def in_memory(cache: Path, cache_bytes: int = 1 << 30) -> RemoteStore:
    address = f"memory://{uuid.uuid4().hex}"
    files, root = fsspec.core.url_to_fs(address)
    return RemoteStore(files, root, address, cache, cache_bytes)


def test_a_cached_copy_needs_no_server_and_is_taken_anew_if_it_was_altered(tmp_path: Path) -> None:
    store = in_memory(tmp_path)
    digest = store.put(b"content")
    copy = store.path(digest)
    copy.write_bytes(b"altered")
    assert store.path(digest).read_bytes() == b"content"
    store._files.rm(store._root, recursive=True)
    assert store.path(digest).read_bytes() == b"content"


def test_the_cache_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    store = in_memory(tmp_path, cache_bytes=2_500)
    digests = [store.put(bytes([number]) * 1_000) for number in range(4)]
    for hours, digest in zip((5, 4, 3), digests[1:], strict=True):
        moment = datetime.now(UTC).timestamp() - 3_600 * hours
        os.utime(tmp_path / "objects" / digest[:2] / digest, (moment, moment))
    store._cache.drop(digests[0])
    assert store.path(digests[0]).read_bytes() == b"\0" * 1_000  # makes room first
    assert [store._cache.has(digest) for digest in digests] == [True, False, True, True]
    assert store.path(digests[1]).read_bytes() == b"\1" * 1_000


# Addresses.


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftps3://bucket", "Protocol not known: ftps3"),
        ("s3://key:secret@bucket", "s3://.*AWS_ACCESS_KEY_ID"),
        ("s3://", "name a bucket"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(location: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=message) as error:
        open_store(location, tmp_path, 1.0)
    assert "secret@" not in str(error.value)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", lacks)
    with pytest.raises(InvalidError, match=r"pip install 'supple\[s3\]'"):
        open_store("s3://bucket/supple", tmp_path, 1.0)


def test_a_file_address_is_a_directory(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/store", tmp_path, 1.0).location == f"{tmp_path}/store"


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Away(type(fsspec.filesystem("memory"))):  # type: ignore[misc]
        def pipe_file(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("could not connect to s3.example")

    store = RemoteStore(Away(), "/bucket", "s3://bucket", tmp_path, 1)
    for call in (store.check, lambda: store.put(b"content")):
        with pytest.raises(UnavailableError, match="the artifact store does not answer, or refuses"):
            call()
    assert "s3://bucket cannot be used: RuntimeError: could not connect to s3.example" in caplog.text
