"""Databases that answer and cannot be used: standbys, poolers, other encodings, missing rights, locked files."""

import os
import shutil
import socket
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError

from service.app import create_app
from service.settings import Settings
from service.storage.database import explain_error
from tests.support.command_line import Run, refused
from tests.support.postgres import SERVER, empty_postgres
from tests.support.service import LOCAL
from tests.support.waiting import wait

POOLER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture
def url(postgres_template: str) -> Iterator[URL]:
    """A PostgreSQL database of its own, with every migration, whose settings a test may change."""
    with empty_postgres(postgres_template) as url:
        yield make_url(url)


def execute(statement: str, url: URL | None = None) -> None:
    address = url.render_as_string(hide_password=False) if url else SERVER
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(statement.encode())


def settings_of(url: URL, directory: Path) -> Settings:
    return Settings(database_url=url.render_as_string(hide_password=False), data_directory=directory)


def test_after_a_failover_to_a_standby_nothing_is_ready_and_the_next_primary_is_found(url: URL, tmp_path: Path) -> None:
    with TestClient(create_app(settings_of(url, tmp_path)), base_url=LOCAL, raise_server_exceptions=False) as client:

        def create_device(name: str) -> int:
            return client.post("/v1/devices", json={"name": name}).status_code

        assert create_device("before") == 201
        execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
        execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'")
        answer = client.post("/v1/devices", json={"name": "meanwhile"})
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the database is read-only; try again"
        assert answer.headers["retry-after"]
        assert client.get("/v1/devices").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "read-only" in answer.json()["detail"]
        execute(f"ALTER DATABASE {url.database} RESET default_transaction_read_only")
        wait(lambda: client.get("/readyz").status_code == 200, "the new primary")
        assert create_device("meanwhile") == 201


def test_requests_alone_find_the_next_primary(url: URL, tmp_path: Path) -> None:
    execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
    settings = settings_of(url, tmp_path)
    refusals: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.app.check_ready", lambda _: None)
        app = create_app(settings)
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        refusals.append(client.post("/v1/devices", json={"name": "board"}).status_code)
        execute(f"ALTER DATABASE {url.database} RESET default_transaction_read_only")
        refusals.append(client.post("/v1/devices", json={"name": "board"}).status_code)
    assert refusals == [503, 201]


@pytest.mark.parametrize("command", ["db upgrade", "keys create me"])
def test_a_database_without_an_encoding_is_refused(command: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"supple_test_{uuid.uuid4().hex}"
    try:
        execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    except psycopg.OperationalError:
        pytest.skip("no PostgreSQL")
    try:
        address = make_url(SERVER).set(database=name).render_as_string(hide_password=False)
        monkeypatch.setenv("SUPPLE_DATABASE_URL", address)
        refused(
            run(*command.split()), 1, "the encoding SQL_ASCII, .* create it with the encoding UTF8: CREATE DATABASE"
        )
    finally:
        execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_user_without_rights_and_a_name_that_does_not_exist_are_told_apart(
    url: URL, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"supple_test_{uuid.uuid4().hex[:16]}"
    execute(f"CREATE ROLE {role} LOGIN")
    try:
        address = url.set(username=role, password=None).render_as_string(hide_password=False)
        monkeypatch.setenv("SUPPLE_DATABASE_URL", address)
        refused(
            run("keys", "create", "me"), 1, "cannot be used: permission denied for table .*; grant it; the user should"
        )
        address = url.set(database="n" * 70).render_as_string(hide_password=False)
        monkeypatch.setenv("SUPPLE_DATABASE_URL", address)
        refused(
            run("keys", "create", "me"), 1, "does not exist; the server runs; check the user, .* name of the database"
        )
    finally:
        execute(f"DROP ROLE {role}")


@contextmanager
def pooler(mode: str, url: URL, directory: Path) -> Iterator[URL]:
    """PgBouncer before the test's PostgreSQL server; the address of the database behind it."""
    if POOLER is None:
        pytest.skip("no PgBouncer")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={url.host} port={url.port or 5432} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
    )
    user = 65534 if os.getuid() == 0 else None  # PgBouncer refuses to run as root
    with open(config, "rb") as content:
        process = subprocess.Popen([POOLER, "-q", "/dev/stdin"], stdin=content, user=user, stderr=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait(lambda: listens() or process.poll() is not None, "PgBouncer")
        yield url.set(host="127.0.0.1", port=port)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["db upgrade", "keys create me", "serve", "worker"])
def test_a_pooler_that_gives_each_transaction_another_session_is_refused(
    command: str, url: URL, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooler("transaction", url, tmp_path) as behind:
        monkeypatch.setenv("SUPPLE_DATABASE_URL", behind.render_as_string(hide_password=False))
        refused(
            run(*command.split()), 1, "such as PgBouncer in transaction mode; .*: set pool_mode = session there, or"
        )


@pytest.mark.slow
def test_a_pooler_that_gives_each_connection_a_session_works(
    url: URL, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooler("session", url, tmp_path) as behind:
        monkeypatch.setenv("SUPPLE_DATABASE_URL", behind.render_as_string(hide_password=False))
        assert run("db", "upgrade").code == 0
        assert run("keys", "create", "me").code == 0


def test_a_locked_file_is_named(
    sqlite_template: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'supple.db')}")
    monkeypatch.setattr("service.storage.database.BUSY_TIMEOUT_MS", 50)
    with closing(sqlite3.connect(tmp_path / "supple.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        refused(
            run("keys", "create", "me"), 1, "database is locked; end the program that holds it locked, or try again"
        )


def test_a_read_only_file_is_named(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(sqlite_template, tmp_path / "supple.db")
    with (
        closing(sqlite3.connect(f"file:{tmp_path / 'supple.db'}?mode=ro", uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError) as raised,
    ):
        connection.execute("DELETE FROM api_keys")
    cause, advice = explain_error(DBAPIError("", {}, raised.value))
    assert cause == "is read-only"
    assert advice == "give this user the right to write the file and its folder"
    settings = Settings(data_directory=tmp_path)
    with TestClient(create_app(settings), base_url=LOCAL) as client:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "supple.db" and access(path, mode))
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "read-only" in answer.json()["detail"]
