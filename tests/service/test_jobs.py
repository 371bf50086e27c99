import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from service.jobs.locks import lock_patiently, try_lock
from service.jobs.queue import Jobs
from service.storage.database import Database
from service.storage.tables import ApiKey
from tests.support.waiting import wait

pytestmark = pytest.mark.slow  # it trains, or starts processes

WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from sqlalchemy.exc import OperationalError
    from service.context import Context
    from service.jobs import runner
    from service.settings import Settings

    trace = Path(sys.argv[1])
    runner.PAUSES_SECONDS = (0.01, 0.01)
    if (trace.parent / "stuck").exists():
        runner.take_over = lambda *_: time.sleep(600)

    def note(line):
        with open(trace, "a") as file:
            file.write(line + chr(10))
        return line

    def wait_until_told():
        until = time.monotonic() + 60
        while not (trace.parent / "go").exists() and time.monotonic() < until:
            time.sleep(0.05)

    def lose_database(who):
        note(f"try {who}")
        if who == "one":
            raise OperationalError("SELECT 1", {}, Exception("the database is locked"))

    def job(context, step, subject):
        who = context.settings.worker_id
        if subject == "bad":
            step("first", lambda: [][note(f"failing {who}")])
        if subject == "away" and who == "one":
            raise OperationalError("SELECT 1", {}, Exception("the server is away"))
        first = step("first", lambda: note(f"first {who}"))
        if subject == "locked":
            step("locked", lambda: lose_database(who))
        step("second", lambda: (note(f"begin {who}"), wait_until_told())[0])
        note(f"done {who} after {first}")

    runner.run_worker(Context(Settings()), {"job": job})
    """
)


class Workers:
    """Real worker processes over one database; what their job did is in `trace`."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.trace = directory / "trace"
        self.trace.touch()
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, worker_id: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "SUPPLE_DATABASE_URL": self.database.url,
            "SUPPLE_DATA_DIRECTORY": str(self.directory),
            "SUPPLE_WORKER_ID": worker_id,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.trace)], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.processes[worker_id] = process
        return process

    def lines(self) -> list[str]:
        return self.trace.read_text().splitlines()

    def wait_for(self, line: str) -> None:
        wait(lambda: line in self.lines(), f"{line!r} in {self.lines()}")

    def let_finish(self) -> None:
        (self.directory / "go").touch()


@pytest.fixture
def workers(database: Database, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(database, tmp_path)
    yield workers
    for process in workers.processes.values():
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


@pytest.fixture
def jobs(database: Database) -> Iterator[Jobs]:
    jobs = Jobs(database)
    yield jobs
    jobs.close()


def enqueued(database: Database) -> int:
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    with database.reading() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


def test_a_job_and_its_row_are_there_together_or_neither_is(database: Database, jobs: Jobs) -> None:
    def write(*, fail: bool) -> None:
        with database.writing() as session:
            session.add(ApiKey(name="row", key_hash="0", scopes="read"))
            jobs.enqueue(session, "job", "row", job_id="job-row", priority=1)
            session.flush()
            if fail:
                raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        write(fail=True)
    assert enqueued(database) == 0

    write(fail=False)
    assert enqueued(database) == 1
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 1


def test_a_job_id_is_enqueued_once(database: Database, jobs: Jobs) -> None:
    for _ in range(2):
        with database.writing() as session:
            jobs.enqueue(session, "job", "row", job_id="job-row", priority=1)
    assert enqueued(database) == 1


def test_a_killed_workers_job_is_taken_over_and_finished_steps_are_not_redone(
    database: Database, jobs: Jobs, workers: Workers
) -> None:
    with database.writing() as session:
        jobs.enqueue(session, "job", "row", job_id="job-row", priority=1)
    workers.start("one")
    workers.wait_for("begin one")
    workers.start("two")
    workers.processes["one"].send_signal(signal.SIGKILL)
    workers.let_finish()
    workers.wait_for("done two after first one")
    assert workers.lines() == ["first one", "begin one", "begin two", "done two after first one"]


def test_a_second_worker_with_a_taken_id_is_refused_and_the_first_goes_on(
    database: Database, jobs: Jobs, workers: Workers
) -> None:
    with database.writing() as session:
        jobs.enqueue(session, "job", "row", job_id="job-row", priority=1)
    first = workers.start("same")
    workers.wait_for("begin same")
    second = workers.start("same")
    assert second.wait(40) != 0
    assert second.stderr
    assert "a worker with the id 'same' is running" in second.stderr.read()
    assert first.poll() is None
    assert workers.lines().count("begin same") == 1
    first.kill()


def test_an_idle_worker_stops_when_told(workers: Workers, database: Database, jobs: Jobs) -> None:
    workers.let_finish()
    with database.writing() as session:
        jobs.enqueue(session, "job", "row", job_id="job-row", priority=1)
    process = workers.start("calm")
    workers.wait_for("done calm after first calm")
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    wait(lambda: try_lock_briefly(database, "calm"), "the lock to be free")


@pytest.mark.parametrize("subject", ["away", "locked"])
def test_a_worker_that_loses_the_database_ends_and_its_job_goes_on_in_another(
    database: Database, jobs: Jobs, workers: Workers, subject: str
) -> None:
    workers.let_finish()
    with database.writing() as session:
        jobs.enqueue(session, "job", subject, job_id="job-row", priority=1)
    assert workers.start("one").wait(40) == 1
    workers.start("two")
    if subject == "away":
        workers.wait_for("done two after first two")
        assert workers.lines() == ["first two", "begin two", "done two after first two"]
    else:
        workers.wait_for("done two after first one")
        assert workers.lines()[:5] == ["first one", *["try one"] * 3, "try two"]


def test_a_worker_cleans_up_after_killed_ones(database: Database, workers: Workers) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL drops a dead worker's lock by itself")
    directory = Path(f"{database.engine.url.database}-workers")
    directory.mkdir()
    (directory / "dead.lock").touch()
    living = try_lock(database, "living")
    assert living is not None
    workers.start("new")
    wait(lambda: {path.stem for path in directory.iterdir()} == {"living", "new"}, "the dead worker's lock to go")
    assert living.is_held()
    living.release()


def try_lock_briefly(database: Database, worker_id: str) -> bool:
    lock = try_lock(database, worker_id)
    if lock is None:
        return False
    lock.release()
    return True


def test_a_lock_is_held_once_and_free_after_release(database: Database) -> None:
    lock = try_lock(database, "one")
    assert lock is not None
    assert lock.is_held()
    assert try_lock(database, "one") is None
    other = try_lock(database, "two")
    assert other is not None
    other.release()
    lock.release()
    again = try_lock(database, "one")
    assert again is not None
    again.release()


def test_a_starting_worker_outlasts_a_peer_that_looks_whether_it_lives(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = try_lock(database, "new")
    assert peer is not None
    looks = [peer.release]
    monkeypatch.setattr("service.jobs.locks.time.sleep", lambda _: looks and looks.pop()())
    lock = lock_patiently(database, "new")
    assert not looks
    assert lock.is_held()
    lock.release()


def test_a_job_that_fails_does_not_keep_its_worker_from_the_next(
    database: Database, jobs: Jobs, workers: Workers
) -> None:
    workers.let_finish()
    with database.writing() as session:
        jobs.enqueue(session, "job", "bad", job_id="bad", priority=1)
        jobs.enqueue(session, "job", "row", job_id="good", priority=2)
    workers.start("one")
    workers.wait_for("done one after first one")
    assert workers.lines()[0] == "failing one"


@pytest.mark.parametrize("stuck", [False, True])
def test_a_worker_that_lost_its_lock_ends_at_once(
    database: Database, workers: Workers, tmp_path: Path, stuck: bool
) -> None:
    """Even while the engine waits for a database that is away."""
    if stuck:
        (tmp_path / "stuck").touch()
    process = workers.start("careless")
    wait(lambda: not try_lock_briefly(database, "careless"), "the worker's lock")
    if database.is_sqlite:
        Path(f"{database.engine.url.database}-workers/careless.lock").unlink()
    else:
        holders = (
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with database.reading() as session:
            session.execute(text(holders)).all()
    assert process.wait(40) == 1


def test_a_cancelled_job_is_not_run(database: Database, jobs: Jobs, workers: Workers) -> None:
    workers.let_finish()
    with database.writing() as session:
        jobs.enqueue(session, "job", "row", job_id="cancelled", priority=1)
    jobs.cancel("cancelled")
    with database.writing() as session:
        jobs.enqueue(session, "job", "row", job_id="wanted", priority=2)
    workers.start("one")
    workers.wait_for("done one after first one")
    assert workers.lines().count("begin one") == 1


def test_cancelling_a_running_job_is_no_error_in_the_log(database: Database, jobs: Jobs, workers: Workers) -> None:
    with database.writing() as session:
        jobs.enqueue(session, "job", "cancelled", job_id="cancelled", priority=1)
        jobs.enqueue(session, "job", "row", job_id="wanted", priority=2)
    process = workers.start("one")
    workers.wait_for("begin one")
    jobs.cancel("cancelled")
    workers.let_finish()
    wait(lambda: workers.lines().count("begin one") == 2, "the next job")
    process.terminate()
    _, errors = process.communicate(timeout=40)
    assert "Traceback" not in errors
