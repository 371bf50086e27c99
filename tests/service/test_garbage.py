"""What nothing names is removed from the store, and nothing else."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.context import Context
from service.storage.garbage import artifact_hashes, collect_garbage, named_hashes
from service.storage.tables import Export
from tests.support.command_line import Ran

AT_ONCE = timedelta(0)


@pytest.fixture
def used(client: TestClient, context: Context, supernet: str, device: str) -> set[str]:
    """The hashes of everything that a service with a bundle, measurements, a search and a file has in its store."""
    found = client.post("/v1/searches", json={"supernet": supernet, "max_flops": 1_000_000}).json()
    file = context.store.put(b"a file")
    with context.database.writing() as session:
        session.add(
            Export(candidate_id=found["best"]["id"], precision="fp32", status="done", sha256=file, size=len(b"a file"))
        )
    with context.database.reading() as session:
        named = artifact_hashes(session)
        assert named <= named_hashes(session)
    stored = {stored.name for stored in context.store.contents()}
    assert len(stored) >= 4
    assert stored == named, "a column that names files is not marked as such"
    return stored


def test_everything_that_is_named_stays(context: Context, used: set[str]) -> None:
    unnamed = context.store.put(b"nothing names this")
    planned = collect_garbage(context.database, context.store, min_age=AT_ONCE, dry_run=True)
    assert [stored.name for stored in planned.removed] == [unnamed]
    assert context.store.path(unnamed).is_file()
    garbage = collect_garbage(context.database, context.store, min_age=AT_ONCE, dry_run=False)
    assert [stored.name for stored in garbage.removed] == [unnamed]
    assert (garbage.contents, garbage.size) == (len(used) + 1, len(b"nothing names this"))
    assert {stored.name for stored in context.store.contents()} == used


def test_what_a_running_job_may_be_about_to_name_stays(
    context: Context, used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was stored again is as young as a new one, even if it was listed before."""
    unnamed = context.store.put(b"not yet named")

    def collect(min_age: timedelta) -> set[str]:
        garbage = collect_garbage(context.database, context.store, min_age=min_age, dry_run=False)
        return {stored.name for stored in garbage.removed}

    assert collect(timedelta(hours=1)) == set()
    contents = list(context.store.contents())
    assert context.store.put(b"not yet named") == unnamed
    with monkeypatch.context() as patch:
        patch.setattr(context.store, "contents", lambda: contents)
        assert collect(AT_ONCE) == set()
    assert collect(AT_ONCE) == {unnamed}


def test_the_command_says_what_it_would_remove_and_removes_it(
    context: Context, used: set[str], run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", context.settings.database)
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(context.settings.data_directory))
    unnamed = context.store.put(b"nothing names this")
    leftover = Path(context.store.location) / "staging" / "killed"
    leftover.mkdir()
    planned = run("gc", "--dry-run", "--hours", "0")
    assert planned.code == 0, planned.stderr
    assert f"object   {unnamed}" in planned.stdout
    assert "leftover killed" in planned.stdout
    assert f"2 of {len(used) + 2} files and bundles" in planned.stdout
    assert "0 of" in run("gc").stdout  # they are younger than a day
    assert "removed: 18 bytes" in run("gc", "--hours", "0").stdout
    assert not leftover.exists()
