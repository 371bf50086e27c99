"""Databases for the tests: SQLite and PostgreSQL, each fresh, each made by the real migrations.

PostgreSQL is looked for at SUPPLE_TEST_POSTGRES. Without it, its tests are skipped, or fail if
SUPPLE_TEST_REQUIRE_POSTGRES is 1.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from service.db import Database, upgrade

SERVER = os.environ.get("SUPPLE_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "supple.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[str]:
    """The name of a database with every migration, to copy."""
    try:
        psycopg.connect(SERVER, connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if os.environ.get("SUPPLE_TEST_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"no PostgreSQL at {SERVER}, and SUPPLE_TEST_REQUIRE_POSTGRES is 1: {error}")
        pytest.skip(f"no PostgreSQL at {SERVER}; set SUPPLE_TEST_POSTGRES")
    with empty_postgres() as url:
        upgrade(url)
        yield make_url(url).database or ""


class empty_postgres:  # noqa: N801 - used as a function
    """A new database, dropped at the end: `with empty_postgres() as url`."""

    def __init__(self, template: str = "template0") -> None:
        self.name = f"supple_test_{uuid.uuid4().hex}"
        self.template = template

    def __enter__(self) -> str:
        self._execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{self.template}"')
        return make_url(SERVER).set(database=self.name).render_as_string(hide_password=False)

    def __exit__(self, *_: object) -> None:
        self._execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    @staticmethod
    def _execute(statement: str) -> None:
        with psycopg.connect(SERVER, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database with every migration, on each of the two."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "supple.db")
        yield f"sqlite:///{tmp_path / 'supple.db'}"
    else:
        with empty_postgres(request.getfixturevalue("postgres_template")) as url:
            yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()
