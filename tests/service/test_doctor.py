"""`supple doctor`: each check sees what it looks for, tells what to do, and prints no secret."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from service.cli import doctor
from service.cli.doctor import Check
from service.context import Context
from service.jobs.locks import lock_patiently
from service.keys.keys import create_key
from service.processes import free_port
from service.settings import Settings
from service.storage.tables import Search, now
from service.upgrade import upgrade
from tests.support.command_line import Run
from tests.support.service import ask


def found(checks: object, name: str) -> Check:
    (check,) = (check for check in checks if check.name == name)  # type: ignore[attr-defined]
    return check  # type: ignore[no-any-return]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that the environment names, and a port at which nothing listens."""
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    monkeypatch.setenv("SUPPLE_PORT", str(free_port()))
    monkeypatch.delenv("SUPPLE_DATABASE_URL", raising=False)
    return tmp_path / "data"


def test_a_healthy_machine_passes_and_a_new_one_is_told_what_to_do(
    environment: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = run("doctor")
    assert new.code == 1
    assert "failure  database" in new.stdout
    assert "run `supple db upgrade`" in new.stdout
    assert not environment.exists()

    upgrade(f"sqlite:///{environment / 'supple.db'}")
    (environment / "store").mkdir()
    healthy = run("doctor", "--json")
    assert healthy.code == 0
    checks = {check["name"]: check for check in json.loads(healthy.stdout)}
    assert all(set(check) == {"name", "status", "detail", "advice"} for check in checks.values())
    assert {name for name, check in checks.items() if check["status"] == "failure"} == set()
    for name in ("versions", "settings", "store", "database", "keys", "clock"):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["service"]["advice"] == "start `supple serve`"
    assert checks["workers"] == {
        "name": "workers",
        "status": "warning",
        "detail": "0 live; 0 jobs wait",
        "advice": "start `supple worker` or `supple serve`",
    }


def test_no_secret_is_printed(environment: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/supple")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128")
    monkeypatch.setenv("SUPPLE_KEY", "supple_hunter2")
    for arguments in ((), ("--json",)):
        ran = run("doctor", *arguments)
        assert ran.code == 1
        assert "hunter2" not in ran.stdout + ran.stderr
        assert "127.0.0.1" in ran.stdout
        assert "proxy.example" in ran.stdout


def test_a_wrong_setting_is_named(environment: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPLE_PORT", "many")
    ran = run("doctor")
    assert ran.code == 1
    assert "SUPPLE_PORT is 'many'" in ran.stdout


def test_waiting_jobs_without_a_worker_fail(client: TestClient, context: Context, supernet: str) -> None:
    ask(client, {"Prefer": "respond-async"}, supernet=supernet)
    check = found(doctor.check_database(context.settings), "workers")
    assert check.status == "failure"
    assert check.detail.startswith("0 live; 1 jobs wait, the oldest for ")
    worker = lock_patiently(context.database, "one")
    assert found(doctor.check_database(context.settings), "workers").status == "ok"
    worker.release()


def test_an_address_that_others_reach_needs_a_key(client: TestClient, context: Context) -> None:
    open_to_all = context.settings.model_copy(update={"host": "0.0.0.0"})
    assert found(doctor.check_database(open_to_all), "keys").advice == "run `supple keys create NAME`"
    insecure = open_to_all.model_copy(update={"insecure": True})
    assert found(doctor.check_database(insecure), "keys").status == "warning"
    with context.database.writing() as session:
        create_key(session, "someone", ["admin"])
    assert found(doctor.check_database(open_to_all), "keys").status == "ok"


def test_a_clock_that_was_set_back_is_noticed(client: TestClient, context: Context, supernet: str) -> None:
    if not context.database.is_sqlite:
        pytest.skip("PostgreSQL tells its own time")
    search = ask(client, supernet=supernet).json()["id"]
    with context.database.writing() as session:
        session.get_one(Search, search).created_at = now() - timedelta(days=5)
    assert found(doctor.check_database(context.settings), "clock").status == "ok"
    with context.database.writing() as session:
        session.get_one(Search, search).created_at = now() + timedelta(minutes=5)
    check = found(doctor.check_database(context.settings), "clock")
    assert check.status == "warning"
    assert "in the future" in check.detail


def usage(total: int, free: int) -> Callable[[Path], SimpleNamespace]:
    return lambda path: SimpleNamespace(total=total << 20, free=free << 20)


@pytest.mark.parametrize(("free", "status"), [(50_000, "ok"), (1_000, "warning"), (10, "failure")])
def test_a_full_disk_and_small_shared_memory_are_noticed(
    free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", usage(100_000, free))
    assert found(doctor.check_disk(Settings(data_directory=tmp_path)), "disk").status == status
    monkeypatch.setattr(shutil, "disk_usage", usage(free, free))
    shared = found(doctor.check_shared_memory(tmp_path), "shared memory")
    assert (shared.status == "ok") == (free > 512)


def test_more_threads_than_cores_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    assert doctor._cpu_quota(limit) == 1.5
    limit.write_text("max 100000\n")
    assert doctor._cpu_quota(limit) is None
    monkeypatch.setattr(doctor, "_cpu_quota", lambda: 1.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert "OMP_NUM_THREADS=1" in found(doctor.check_processor(), "processor").advice
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found(doctor.check_processor(), "processor").status == "ok"


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy<1", "no-such-package>=2", 'ruff<0; extra == "dev"'])
    (check,) = doctor.check_versions()
    assert check.status == "failure"
    assert "numpy is " in check.detail
    assert "no-such-package is missing" in check.detail
    assert "ruff" not in check.detail


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    assert "ALL_PROXY must start with http" in found(doctor.check_proxies(), "proxies").advice
