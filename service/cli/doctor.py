"""`supple doctor`: what of this machine, its settings and its service works, and what to do about the rest."""

import os
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal
from urllib.request import getproxies_environment

from packaging.requirements import Requirement
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from service.cli.inputs import one_line, read_settings
from service.client import Client
from service.context import store_of
from service.errors import SuppleError, without_password
from service.jobs.ledger import job_groups
from service.jobs.locks import count_workers
from service.keys.keys import has_expired
from service.keys.queries import list_keys
from service.settings import Settings
from service.storage.database import Database
from service.storage.locations import store_folder
from service.storage.tables import Search

Status = Literal["ok", "warning", "failure"]
MIB = 1 << 20
LOW_DISK, NO_DISK = 2_048 * MIB, 64 * MIB  # free: warned of; too little to store an artifact
LOW_SHARED_MEMORY = 512 * MIB  # which loaders of images share
FEW_FILES = 1_024  # open at a time: each connection is one
CLOCK_SECONDS = 2.0  # by which two clocks may differ
STALE_SECONDS = 600.0  # after which a waiting job is worth a word


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check. advice: what to do; empty if it is ok."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def examine() -> Iterator[Check]:
    """Every check, as soon as it is done. A check never raises; no detail holds a secret."""
    yield from _guarded("versions", check_versions)
    yield from _guarded("processor", check_processor)
    yield from _guarded("shared memory", check_shared_memory)
    yield from _guarded("open files", check_open_files)
    yield from _guarded("proxies", check_proxies)
    try:
        settings = read_settings()
    except (SuppleError, ValueError) as error:
        yield Check("settings", "failure", one_line(error), "correct the variable that it names")
        return
    yield Check("settings", "ok", f"data in {settings.data_directory.absolute()}")
    yield from _guarded("store", lambda: check_store(settings))
    yield from _guarded("disk", lambda: check_disk(settings))
    yield from _guarded("database", lambda: check_database(settings))
    yield from _guarded("service", lambda: check_service(settings))


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except (SuppleError, OSError, ValueError, SQLAlchemyError) as error:
        orig = getattr(error, "orig", None) or error
        yield Check(name, "failure", _without_secrets(one_line(orig)), "")


def _without_secrets(message: str) -> str:
    """A message without what stands between // and @ in an address."""
    return re.sub(r"//[^\s/@]*@", "//***@", message)


def check_versions() -> Iterator[Check]:
    """Python and the packages that Supple needs, against what it declares."""
    wrong = []
    for line in requires("supple") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, not {requirement.specifier}")
    shown = ", ".join(f"{name} {version(name)}" for name in ("supple", "torch", "onnxruntime", "numpy", "sqlalchemy"))
    detail = f"{shown}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    if wrong:
        yield Check("versions", "failure", "; ".join(wrong), "install Supple again, with constraints.txt")
    else:
        yield Check("versions", "ok", detail)


def check_processor() -> Iterator[Check]:
    """Cores that this process may use, and how many threads torch would take."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, asked = _cpu_quota(), os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) else cores
    usable = min(float(cores), quota or cores)
    detail = f"{cores} cores" + (f", of which this container may use {quota:g}" if quota else "")
    detail += f"; {threads} threads" + (" as OMP_NUM_THREADS says" if asked else "")
    if threads > usable:
        advice = f"set OMP_NUM_THREADS={max(1, int(usable))}: more threads than cores get into each other's way"
        yield Check("processor", "warning", detail, advice)
    else:
        yield Check("processor", "ok", detail)


def _cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """The cores that the control group of this process may use; None without a limit."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def check_shared_memory(path: Path = Path("/dev/shm")) -> Iterator[Check]:
    """The shared memory through which processes hand over decoded images."""
    if not path.is_dir():
        return
    size = shutil.disk_usage(path).total
    detail = f"{size // MIB:,} MiB at {path}"
    if size < LOW_SHARED_MEMORY:
        advice = "training may need more: `docker run --shm-size 2g`, `shm_size` in Compose, or `workers: 0`"
        yield Check("shared memory", "warning", detail, advice)
    else:
        yield Check("shared memory", "ok", detail)


def check_open_files() -> Iterator[Check]:
    """How many files and connections a process may have open."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < FEW_FILES:
        yield Check("open files", "warning", f"at most {limit}", f"raise it: `ulimit -n {FEW_FILES}`")
    else:
        yield Check("open files", "ok", "no limit" if limit < 0 else f"at most {limit:,}")


def check_proxies() -> Iterator[Check]:
    """The proxies that `supple probe` would use. Requests to this machine go through none."""
    proxies = {name: address for name, address in getproxies_environment().items() if name != "no"}
    if not proxies:
        yield Check("proxies", "ok", "none")
        return
    shown = ", ".join(f"{name.upper()}_PROXY={without_password(address)}" for name, address in sorted(proxies.items()))
    bad = [name for name, address in proxies.items() if not address.startswith(("http://", "https://"))]
    if bad:
        names = ", ".join(f"{name.upper()}_PROXY" for name in sorted(bad))
        yield Check("proxies", "warning", shown, f"{names} must start with http:// or https://")
    else:
        yield Check("proxies", "ok", f"{shown}; none for this machine")


def check_store(settings: Settings) -> Iterator[Check]:
    """Whether the artifact store takes a file."""
    folder = store_folder(settings.store_location)
    if folder is not None and not folder.is_dir():
        yield Check("store", "warning", f"{folder.absolute()} does not exist; its first use makes it")
        return
    store = store_of(settings)
    store.check()
    yield Check("store", "ok", f"takes files at {store.location}")


def check_disk(settings: Settings) -> Iterator[Check]:
    """The room on the disks of the store, or of the copies of what lies behind an address, and of a SQLite file."""
    url = make_url(settings.database)
    folder = store_folder(settings.store_location) or settings.data_directory
    paths = [folder, *([Path(url.database)] if url.drivername == "sqlite" and url.database else [])]
    devices: dict[int, Path] = {}
    for path in paths:
        existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
        devices.setdefault(existing.stat().st_dev, existing)
    for path in devices.values():
        usage = shutil.disk_usage(path)
        detail = f"{usage.free // MIB:,} of {usage.total // MIB:,} MiB free at {path.absolute()}"
        status: Status = "failure" if usage.free < NO_DISK else "warning" if usage.free < LOW_DISK else "ok"
        yield Check("disk", status, detail, "" if status == "ok" else "make room, or move the data directory")


def check_database(settings: Settings) -> Iterator[Check]:
    """The database: whether it answers, is migrated and takes writes; its clock, its keys, its workers and jobs."""
    shown = without_password(settings.database)
    url = make_url(settings.database)
    if url.drivername == "sqlite" and url.database and not Path(url.database).exists():
        yield Check("database", "failure", f"{shown} does not exist", "run `supple db upgrade`")
        return
    database = Database(settings.database)
    try:
        if not database.is_current():
            yield Check("database", "failure", f"{shown} is not at this release's version", "run `supple db upgrade`")
            return
        database.check_sessions()
        if database.is_writable():
            yield Check("database", "ok", f"{shown} answers, is migrated and takes writes")
        else:
            yield Check("database", "failure", f"{shown} is read-only", "name the primary server, or give the right")
        yield _check_clock(database)
        yield _check_keys(database, settings)
        yield _check_jobs(database)
    finally:
        database.close()


def _check_clock(database: Database) -> Check:
    """This machine's clock beside the database server's, or beside the newest row of a SQLite file."""
    with database.reading() as session:
        if database.is_sqlite:
            newest = session.scalar(select(func.max(Search.created_at)))
            ahead = max(0.0, newest.timestamp() - time.time()) if newest else 0.0
            detail = f"the newest search is {ahead:.0f} s in the future" if ahead else "no search is from the future"
        else:
            sent = time.time()
            theirs = float(session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
            ahead = theirs - (sent + time.time()) / 2
            detail = f"{ahead:+.1f} s beside the database server's"
    if abs(ahead) > CLOCK_SECONDS:
        return Check("clock", "warning", detail, "set both machines' clocks by NTP: ids and lists sort by time")
    return Check("clock", "ok", detail)


def _check_keys(database: Database, settings: Settings) -> Check:
    with database.reading() as session:
        valid = sum(not has_expired(key) for key in list_keys(session))
    count = valid + bool(settings.api_key.get_secret_value())
    where = f"{settings.host}, which {'only this machine reaches' if settings.loopback else 'others reach'}"
    if not settings.needs_key:
        safe = settings.loopback
        advice = "" if safe else "unset SUPPLE_INSECURE and run `supple keys create NAME`"
        return Check("keys", "ok" if safe else "warning", f"none are needed at {where}", advice)
    if not count:
        return Check("keys", "failure", f"there is no valid one, at {where}", "run `supple keys create NAME`")
    return Check("keys", "ok", f"{count}, at {where}")


def _check_jobs(database: Database) -> Check:
    workers = count_workers(database)
    with database.reading() as session:
        waiting = [group for group in job_groups(session) if group.state == "queued"]
    count = sum(group.count for group in waiting)
    oldest = max((time.time() - group.oldest_ms / 1e3 for group in waiting), default=0.0)
    detail = f"{workers} live; {count} jobs wait" + (f", the oldest for {oldest:.0f} s" if count else "")
    if workers == 0:
        return Check("workers", "failure" if count else "warning", detail, "start `supple worker` or `supple serve`")
    if oldest > STALE_SECONDS:
        return Check("workers", "warning", detail, "start more: `supple worker`, or `supple serve --workers N`")
    return Check("workers", "ok", detail)


def check_service(settings: Settings) -> Iterator[Check]:
    """Whether the API of these settings answers and is ready."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    address = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    try:
        with Client(address) as client:
            ready = client.get_readiness()
    except SuppleError as error:
        yield Check("service", "warning", _without_secrets(one_line(error)), "start `supple serve`")
        return
    yield Check("service", "ok", f"ready at {address}, with {ready['workers']} workers")
