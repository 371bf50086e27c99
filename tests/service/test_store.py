import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotFoundError, StoreFullError
from service.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def make_bundle(directory: Path) -> Path:
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")
    (directory / "weights.safetensors").write_bytes(b"weights")
    return directory


def test_a_copy_of_a_read_only_bundle_is_its_owners(store: Store, tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "mine")
    for path in (*source.iterdir(), source):
        path.chmod(0o555 if path.is_dir() else 0o444)
    stored = store.add_bundle(source, "ab" * 32)
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (stored, *stored.iterdir()))
    assert (stored / "weights.safetensors").read_bytes() == b"weights"


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_found_by_its_hash(store: Store) -> None:
    digest = store.put(b"content")
    assert digest == hashlib.sha256(b"content").hexdigest()
    assert store.path(digest).read_bytes() == b"content"
    assert store.put(b"content") == digest
    assert files(store) == [f"objects/{digest[:2]}/{digest}"]


def test_a_file_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="has no file 00"):
        store.path("00" * 32)
    with pytest.raises(NotFoundError, match="supple register"):
        store.bundle("00" * 32)


def test_public_messages_name_no_path_and_the_log_does(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for call in (store.path, store.bundle, lambda _: store.put(b"content")):
        monkeypatch.setattr(os, "fsync", full_disk)
        caplog.clear()
        with pytest.raises((NotFoundError, StoreFullError)) as error:
            call("00" * 32)
        assert str(store.root) not in str(error.value)
        assert str(store.root) in caplog.text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StoreFullError, match=r"no room left in the artifact store .*free some"):
        store.put(b"content")
    assert files(store) == []
    monkeypatch.undo()
    assert store.path(store.put(b"content")).exists()


def test_another_error_of_the_disk_is_passed_on_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        store.put(b"content")
    assert files(store) == []


def test_a_bundle_is_kept_whole(store: Store, tmp_path: Path) -> None:
    kept = store.add_bundle(make_bundle(tmp_path / "mine"), "ab" * 32)
    assert kept == store.bundle("ab" * 32)
    assert (kept / "weights.safetensors").read_bytes() == b"weights"
    assert store.add_bundle(kept, "ab" * 32) == kept
    assert len(files(store)) == 2


def test_a_full_disk_leaves_no_half_bundle(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_bundle(tmp_path / "mine")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreFullError):
        store.add_bundle(source, "ab" * 32)
    assert files(store) == []


def test_the_check_says_whether_files_can_be_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(StoreFullError):
        store.check()
    assert files(store) == []
