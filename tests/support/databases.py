"""Databases for tests that do not run once on each kind."""

import shutil
from pathlib import Path

import pytest

from tests.support.postgres import empty_tables


@pytest.fixture
def sqlite_unless_asked(request: pytest.FixtureRequest, sqlite_template: Path, tmp_path: Path) -> str:
    """The address of a SQLite file; of PostgreSQL where a test asks for it by an indirect parameter."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'supple.db')}"
    url: str = request.getfixturevalue("postgres_url")
    empty_tables(url)
    return url
