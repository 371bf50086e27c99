import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util.exc import CommandError
from sqlalchemy import MetaData, Table, event, func, inspect, select
from sqlalchemy.exc import IntegrityError, OperationalError

import migrations
from migrations.tables import JOB_ENGINE_TABLES
from service.storage.catalogue import Catalogue
from service.storage.database import Database, alembic_config, make_engine
from service.storage.packed import packed_until
from service.storage.tables import ApiKey, Base, Candidate, Search, SearchDevice, Supernet, new_id
from service.upgrade import upgrade
from tests.support.postgres import empty_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database for each test, since these tests change the tables themselves."""
    if request.param == "sqlite":
        upgrade(f"sqlite:///{tmp_path / 'supple.db'}")
        yield f"sqlite:///{tmp_path / 'supple.db'}"
    else:
        with empty_postgres(request.getfixturevalue("postgres_template")) as url:
            yield url


def supernet(name: str) -> Supernet:
    return Supernet(id=name, bundle_hash=f"{name:0>64}", name=name, space_hash="0" * 64, manifest={}, report={})


def candidate(supernet_id: str, architecture_id: str) -> Candidate:
    return Candidate(
        id=new_id(),
        supernet_id=supernet_id,
        architecture_id=architecture_id,
        architecture={},
        genome=b"\0",
        resolution=8,
        flops=2**40,
        params=1,
    )


def test_the_migrations_make_exactly_the_models_tables(database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = database.engine
    command.check(config)
    names = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
    assert names - JOB_ENGINE_TABLES == set(Base.metadata.tables)
    assert database.is_current()


def test_a_column_too_many_is_noticed(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN surplus INTEGER")
    config = alembic_config()
    config.attributes["engine"] = database.engine
    with pytest.raises(CommandError, match="surplus"):
        command.check(config)


def test_the_migrations_can_be_taken_back(database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = database.engine
    command.downgrade(config, "base")
    assert set(inspect(database.engine).get_table_names()) - JOB_ENGINE_TABLES == {"alembic_version"}
    assert not database.is_current()


def test_upgrading_twice_changes_nothing_and_keeps_the_rows(database: Database) -> None:
    with database.writing() as session:
        session.add(ApiKey(name="kept", key_hash="0", scopes="read"))
    upgrade(database.url)
    with database.reading() as session:
        assert session.scalar(select(ApiKey.name)) == "kept"


def test_keys_of_an_earlier_version_may_do_everything(database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = database.engine
    command.downgrade(config, "0010")
    with database.engine.begin() as connection:
        values = f"('k', 'old', '{'0' * 64}', CURRENT_TIMESTAMP)"
        connection.exec_driver_sql(f"INSERT INTO api_keys (id, name, key_hash, created_at) VALUES {values}")
    upgrade(database.url)
    with database.reading() as session:
        key = session.scalars(select(ApiKey)).one()
    assert (key.scopes, key.expires_at, key.last_used_at) == ("admin", None, None)


def test_searches_of_an_earlier_version_get_the_fields_of_the_canonical_form(database: Database) -> None:
    with database.writing() as session:
        session.add(supernet("a"))
        session.flush()
        request = {"limits": [{"cost": "flops", "max": 1.5}], "objectives": [], "seed": 3}
        values = {"supernet_id": "a", "predictor_version": "", "latency_models": {}, "seed": 3, "status": "done"}
        session.add(Search(id="s", request=request, question="0" * 64, warm_starts=2, **values))
    config = alembic_config()
    config.attributes["engine"] = database.engine
    command.downgrade(config, "0001")
    with database.engine.begin() as connection:
        assert "objectives" not in str(connection.exec_driver_sql("SELECT request FROM searches").scalar())
    upgrade(database.url)
    with database.reading() as session:
        search = session.get_one(Search, "s")
    assert search.request == request
    assert (search.question, search.warm_starts, search.findings) == (None, 0, None)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
        yield database
        database.close()
    else:
        request.getfixturevalue("postgres_template")  # skips without a server
        with empty_postgres() as url:
            database = Database(url)
            yield database
            database.close()


ROWS_AT_0003: dict[str, dict[str, Any]] = {
    "devices": {"name": "board", "runtime": "onnxruntime", "threads": 1, "batch_size": 1},
    "supernets": {
        "id": "net",
        "bundle_hash": "1" * 64,
        "name": "net",
        "space_hash": "2" * 64,
        "manifest": {"classes": 10},
        "report": {"accuracy": [0.5, 0.75]},
    },
    "latency_models": {
        "id": "model",
        "device": "board",
        "space_hash": "2" * 64,
        "version": 1,
        "model": {"blocks": {"k": 0.1}},
        "card": {"error": 0.02},
        "host": {"cores": 4},
        "reference_ms": 1.5,
        "measurements": "3" * 64,
    },
    "block_measurements": {"latency_model_id": "model", "block_key": "k", "measured_ms": 0.1},
    "network_measurements": {"latency_model_id": "model", "number": 0, "architecture": {"d": 2}, "measured_ms": 2.5},
    "candidates": {
        "id": "candidate",
        "supernet_id": "net",
        "architecture_id": "architecture",
        "architecture": {"d": 2},
        "genome": b"\0\1",
        "resolution": 32,
        "flops": 2**40,
        "params": 7,
    },
    "searches": {
        "id": "search",
        "supernet_id": "net",
        "request": {"limits": [{"cost": "latency_ms", "max": 1.5}], "objectives": []},
        "predictor_version": "4" * 16,
        "latency_models": {"board": "model"},
        "warm_starts": 0,
        "seed": 3,
        "status": "done",
        "best_candidate_id": "candidate",
        "findings": {"generations": 2},
        "attempts": 1,
    },
    "search_candidates": {"search_id": "search", "candidate_id": "candidate", "place": 0, "on_front": True},
}


def all_rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, without the migrations' own."""
    metadata = MetaData()
    metadata.reflect(database.engine)
    with database.engine.connect() as connection:
        return {
            name: [tuple(row) for row in connection.execute(select(table))]
            for name, table in metadata.tables.items()
            if name != "alembic_version"
        }


def test_dropping_the_tables_of_measurements_changes_no_other_table(empty_database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = empty_database.engine
    command.upgrade(config, "0003")
    with empty_database.engine.begin() as connection:
        for name, values in ROWS_AT_0003.items():
            table = Table(name, MetaData(), autoload_with=connection)
            times = {"created_at": datetime(2026, 1, 2, tzinfo=UTC)} if "created_at" in table.columns else {}
            connection.execute(table.insert().values(**values, **times))
    before = all_rows(empty_database)
    assert {name for name, rows in before.items() if rows} == set(ROWS_AT_0003)
    dropped = {"block_measurements", "network_measurements"}

    command.upgrade(config, "0004")
    assert all_rows(empty_database) == {name: rows for name, rows in before.items() if name not in dropped}

    command.downgrade(config, "0003")
    assert all_rows(empty_database) == before | {name: [] for name in dropped}


def test_predictions_of_before_have_no_standard_deviation(empty_database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = empty_database.engine
    command.upgrade(config, "0005")
    prediction = {"candidate_id": "candidate", "predictor_version": "4" * 16, "predicted_accuracy": 0.75}
    rows = {name: ROWS_AT_0003[name] for name in ("supernets", "candidates")} | {"accuracy_predictions": prediction}
    with empty_database.engine.begin() as connection:
        for name, values in rows.items():
            table = Table(name, MetaData(), autoload_with=connection)
            times = {"created_at": datetime(2026, 1, 2, tzinfo=UTC)} if "created_at" in table.columns else {}
            connection.execute(table.insert().values(**values, **times))
    before = all_rows(empty_database)

    command.upgrade(config, "0006")
    (row,) = all_rows(empty_database)["accuracy_predictions"]
    assert row == (*before["accuracy_predictions"][0], None)

    command.downgrade(config, "0005")
    assert all_rows(empty_database) == before


def test_searches_of_before_are_found_by_their_devices(empty_database: Database) -> None:
    config = alembic_config()
    config.attributes["engine"] = empty_database.engine
    command.upgrade(config, "0006")
    names = ("devices", "supernets", "latency_models", "candidates", "searches")
    with empty_database.engine.begin() as connection:
        for name in names:
            table = Table(name, MetaData(), autoload_with=connection)
            values = {**ROWS_AT_0003[name], "created_at": datetime(2026, 1, 2, tzinfo=UTC)}
            connection.execute(table.insert().values(**values))
    command.upgrade(config, "head")
    with empty_database.reading() as session:
        rows = [(row.device, row.search_id) for row in session.scalars(select(SearchDevice))]
    assert rows == [("board", "search")]


@pytest.mark.parametrize(("count", "packed"), [(10_000, 8192), (8192, 8192), (4095, 0)])
def test_candidates_of_before_are_packed_and_read_with_the_rest(
    empty_database: Database, count: int, packed: int
) -> None:
    config = alembic_config()
    config.attributes["engine"] = empty_database.engine
    command.upgrade(config, "0013")
    at, version = datetime(2026, 1, 2, tzinfo=UTC), "4" * 16
    other = {**ROWS_AT_0003["supernets"], "id": "other", "bundle_hash": "5" * 64}
    names = [f"{number:05}" for number in range(count)]
    accuracy = [number / count for number in range(count)]
    genomes = [number.to_bytes(2) for number in range(count)]
    owners = ["other" if number % 3 else "net" for number in range(count)]  # both share the predictor
    candidates = [
        {**ROWS_AT_0003["candidates"], "id": name, "architecture_id": name, "genome": genome, "supernet_id": owner}
        for name, genome, owner in zip(names, genomes, owners, strict=True)
    ]
    predictions: list[dict[str, Any]] = [
        {"candidate_id": name, "predictor_version": version, "number": number, "predicted_accuracy": value}
        for number, (name, value) in enumerate(zip(names, accuracy, strict=True), 1)
    ]
    rows = {
        "supernets": [ROWS_AT_0003["supernets"], other],
        "candidates": candidates,
        "accuracy_predictions": predictions,
    }
    with empty_database.engine.begin() as connection:
        for name, values in rows.items():
            table = Table(name, MetaData(), autoload_with=connection)
            times = {"created_at": at} if "created_at" in table.columns else {}
            connection.execute(table.insert(), [{**row, **times} for row in values])
    before = all_rows(empty_database)

    command.upgrade(config, "0014")
    with empty_database.reading() as session:
        assert packed_until(session, version) == packed
        for owner in ("net", "other"):
            stored = Catalogue(owner, version).read(session)
            mine = [number for number in range(count) if owners[number] == owner]
            assert [genome.tobytes() for genome in stored.genomes] == [genomes[number] for number in mine]
            assert stored.accuracy.tolist() == [accuracy[number] for number in mine]

    command.downgrade(config, "0013")
    assert all_rows(empty_database) == before


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_processes_may_upgrade_at_the_same_time(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def upgrade_twice(url: str) -> None:
        program = f"from service.upgrade import upgrade; upgrade({url!r})"
        processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert Database(url).is_current()

    if backend == "sqlite":
        upgrade_twice(f"sqlite:///{tmp_path / 'new.db'}")
    else:
        request.getfixturevalue("postgres_template")  # skips without a server
        with empty_postgres() as url:
            upgrade_twice(url)


def test_sqlite_runs_as_we_need_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'supple.db'}")
    with database.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"use sqlite:///FILE or postgresql://HOST/NAME"):
        make_engine(url)


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail_late() -> None:
        with database.writing() as session:
            session.add(ApiKey(name="a", key_hash="0", scopes="read"))
            session.flush()
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        fail_late()
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 0


def test_candidates_are_unique_per_supernet_and_architecture(database: Database) -> None:
    with database.writing() as session:
        session.add_all([supernet("a"), supernet("b")])
        session.flush()
        session.add_all([candidate("a", "x"), candidate("a", "y"), candidate("b", "x")])
    with pytest.raises(IntegrityError), database.writing() as session:
        session.add(candidate("a", "x"))
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Candidate)) == 3
        assert session.scalar(select(func.max(Candidate.flops))) == 2**40


def test_a_row_needs_what_it_refers_to(database: Database) -> None:
    with pytest.raises(IntegrityError), database.writing() as session:
        session.add(candidate("nobody", "x"))


def test_times_come_back_in_utc(database: Database) -> None:
    with database.writing() as session:
        session.add(key := ApiKey(name="a", key_hash="0", scopes="read"))
        session.flush()
        written = key.created_at
    with database.reading() as session:
        read = session.scalars(select(ApiKey.created_at)).one()
    assert read == written
    assert read.utcoffset() is not None


def test_concurrent_read_then_write_transactions_all_succeed(database: Database) -> None:
    """Without BEGIN IMMEDIATE about a third of these fail on SQLite."""
    with database.writing() as session:
        session.add(supernet("counter"))
    errors: list[BaseException] = []

    def add(times: int) -> None:
        for _ in range(times):
            try:
                with database.writing() as session:
                    row = session.get(Supernet, "counter", with_for_update=True)
                    assert row
                    row.report = {"count": row.report.get("count", 0) + 1}
            except OperationalError as error:
                errors.append(error)

    threads = [threading.Thread(target=add, args=(15,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with database.reading() as session:
        assert session.scalars(select(Supernet.report)).one() == {"count": 90}


def test_writers_of_a_process_take_turns_before_they_ask_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no timeout SQLite refuses the second writer at once, if it is asked."""
    url = f"sqlite:///{tmp_path / 'turns.db'}"
    upgrade(url)
    database = Database(url)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")  # of the pool's one connection, which the first writer gets
    event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=0"))

    def add(name: str) -> None:
        with database.writing() as session:
            session.add(ApiKey(name=name, key_hash=name, scopes="read"))

    with database.writing() as session:
        second = threading.Thread(target=add, args=("second",))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        session.add(ApiKey(name="first", key_hash="first", scopes="read"))
    second.join()
    with database.reading() as session:
        assert set(session.scalars(select(ApiKey.name))) == {"first", "second"}
    database.close()


def test_a_revision_changes_with_a_commit_of_any_process_and_not_with_reading(database: Database) -> None:
    other = Database(database.url)  # as another process has it
    seen = [database.revision()]
    for name, writer in (("other", other), ("this", database)):
        with writer.writing() as session:
            session.add(ApiKey(name=name, key_hash=name, scopes="read"))
        seen.append(database.revision())
        with database.reading() as session:
            session.scalars(select(ApiKey.name)).all()
        assert database.revision() == seen[-1]
    assert len(set(seen)) == 3
    other.close()


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    with database.writing() as writer:
        writer.add(ApiKey(name="a", key_hash="0", scopes="read"))
        writer.flush()
        with database.reading() as reader:
            assert reader.scalar(select(func.count()).select_from(ApiKey)) == 0


def test_ids_sort_by_time_of_making() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(len(name) == 32 for name in ids)
    assert [name[:12] for name in ids] == sorted(name[:12] for name in ids)


def test_migrations_run_from_a_path_with_percent_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = shutil.copytree(Path(migrations.__path__[0]), tmp_path / "100%20" / "migrations")
    monkeypatch.setattr("service.storage.database.files", lambda _: package)
    upgrade(f"sqlite:///{tmp_path / 'new.db'}")
    with closing(Database(f"sqlite:///{tmp_path / 'new.db'}")) as database:
        assert database.is_current()
