"""A backup is restored whole or not at all."""

import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.app import create_app
from service.context import Context
from service.settings import Settings
from service.storage.backup import restore_backup, write_backup
from service.storage.directory import DirectoryStore
from service.storage.tables import Search
from tests.support.command_line import Ran
from tests.support.service import LOCAL
from tests.support.waiting import wait

Members = dict[str, bytes]


@pytest.fixture
def settings(sqlite_template: Path, tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    shutil.copy(sqlite_template, tmp_path / "data" / "supple.db")
    return Settings(data_directory=tmp_path / "data")


@pytest.fixture
def archive(client: TestClient, context: Context, supernet: str, tmp_path: Path) -> Path:
    """A backup of a service that has answered one search."""
    client.post("/v1/searches", json={"max_flops": 1_000_000}).raise_for_status()
    write_backup(context.settings.database, context.store, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


def read(archive: Path) -> Members:
    with tarfile.open(archive) as file:
        return {member.name: file.extractfile(member).read() for member in file}  # type: ignore[union-attr]


def write(archive: Path, members: Members) -> None:
    with tarfile.open(archive, "w") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


def restored(archive: Path, folder: Path) -> TestClient:
    """A service restored into an empty folder."""
    settings = Settings(data_directory=folder)
    restore_backup(settings.database, DirectoryStore(folder / "store"), archive)
    return TestClient(create_app(settings), base_url=LOCAL)


def test_a_restored_service_answers_as_the_old_one(
    client: TestClient, archive: Path, tmp_path: Path, context: Context
) -> None:
    assert archive.stat().st_mode & 0o077 == 0, "others can read the hashes of keys"
    with restored(archive, tmp_path / "new") as new:
        for path in ("/v1/searches", "/v1/supernets"):
            assert new.get(path).json() == client.get(path).json()
        again = new.post("/v1/searches", json={"max_flops": 1_000_000})
        assert again.status_code == 200, "it has forgotten the answer"
        assert new.post("/v1/searches", json={"max_flops": 900_000}).status_code == 201
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["store", "supple.db"]
    contents = {stored.name for stored in DirectoryStore(tmp_path / "new" / "store").contents()}
    assert contents >= {stored.name for stored in context.store.contents()}


def test_a_backup_is_whole_while_the_service_writes(
    client: TestClient, supernet: str, context: Context, tmp_path: Path
) -> None:
    stop = threading.Event()

    def search() -> None:
        flops = 1_000_000
        while not stop.is_set():
            flops -= 1_000
            client.post("/v1/searches", json={"max_flops": flops, "evaluations": 100}).raise_for_status()

    def searches(in_context: Context, status: str) -> int:
        with in_context.database.reading() as session:
            return session.scalar(select(func.count()).where(Search.status == status)) or 0

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for number in range(3):
            wait(lambda: searches(context, "done") > number, "one more search")  # noqa: B023 - called at once
            backup = write_backup(context.settings.database, context.store, tmp_path / f"{number}.tar")
            assert backup.missing == []
    finally:
        stop.set()
        thread.join()
    with restored(tmp_path / "2.tar", tmp_path / "new") as new:
        assert searches(new.app.state.context, "done") >= 3  # type: ignore[attr-defined]
        assert searches(new.app.state.context, "running") == 0  # type: ignore[attr-defined]


def altered(members: Members, name: str) -> Members:
    content = bytearray(members[name])
    content[len(content) // 2] ^= 1
    return {**members, name: bytes(content)}


FAULTS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "altered database": (lambda members: altered(members, "supple.db"), "was altered: supple.db has the SHA-256"),
    "missing file": (lambda members: dict(list(members.items())[:-1]), "is incomplete: .* is missing"),
    "further file": (lambda members: {**members, "objects/" + "0" * 64: b""}, "which its manifest does not list"),
    "path outside": (lambda members: {**members, "../evil": b""}, r"'\.\./evil', which its manifest does not list"),
    "another format": (lambda members: {"manifest.json": b'{"format": 9}'}, "not a backup of format 1"),
    "no manifest": (lambda members: {"supple.db": members["supple.db"]}, "not a backup of format 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_backup_that_is_not_whole_is_refused_and_nothing_is_written(
    fault: str, archive: Path, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = FAULTS[fault]
    write(archive, change(read(archive)))
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "new"))
    ran = run("restore", str(archive))
    assert ran.code == 2
    assert re.search(message, ran.stderr), ran.stderr
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == []


def test_a_file_that_was_cut_short_is_refused(
    archive: Path, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "new"))
    for length in (0, 100, len(content) // 2):
        archive.write_bytes(content[:length])
        ran = run("restore", str(archive))
        assert ran.code == 2
        assert "error: " in ran.stderr


def test_a_target_that_is_not_empty_is_refused(
    archive: Path, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "new"))
    DirectoryStore(tmp_path / "new" / "store").put(b"something")
    ran = run("restore", str(archive))
    assert (ran.code, "is not empty: it holds object" in ran.stderr) == (2, True)
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    ran = run("restore", str(archive))
    assert (ran.code, "supple.db exists; restore where there is no database" in ran.stderr) == (2, True)


def test_a_restoration_that_fails_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store = DirectoryStore(tmp_path / "new" / "store")
    monkeypatch.setattr(store, "add_bundle", full)
    settings = Settings(data_directory=tmp_path / "new")
    with pytest.raises(OSError, match="No space left"):
        restore_backup(settings.database, store, archive)
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == []


def test_the_commands_say_what_they_did(
    archive: Path, context: Context, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    assert "exists; choose another name" in run("backup", str(archive)).stderr
    with context.database.reading() as session:
        lost = session.scalar(select(Search.evaluated))
    assert lost is not None
    context.store.path(lost).unlink()
    ran = run("backup", str(tmp_path / "second.tar"))
    assert ran.code == 0
    assert "1 bundles and" in ran.stdout
    assert f"lacks 1 files that the database names, so the backup does, too: {lost}" in ran.stderr
    manifest = json.loads(read(tmp_path / "second.tar")["manifest.json"])
    assert f"objects/{lost}" not in manifest["files"]
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "new"))
    ran = run("restore", str(tmp_path / "second.tar"))
    assert ran.code == 0, ran.stderr
    assert f"restored into {tmp_path / 'new' / 'supple.db'}" in ran.stdout


def test_a_service_on_postgresql_is_told_what_to_do(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", "postgresql://db.invalid/supple")
    for command in ("backup", "restore"):
        ran = run(command, str(tmp_path / "backup.tar"))
        assert (ran.code, "pg_dump" in ran.stderr) == (2, True)
