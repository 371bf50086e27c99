"""Jobs while processes are killed: `python -m benchmarks.chaos BUNDLE [--postgres] [--seconds 120]`.

An API, three workers and, with `--postgres`, a PostgreSQL server of its own. 100 searches are jobs, a quarter of them
verified, and 100 files of the networks that they found are jobs, too, while one of the processes is killed with SIGKILL
every few seconds and started again. Requests that fail are sent again, searches with their Idempotency-Key. At the end
every job must have ended once: no search is lost or doubled, every answer is costed again from its architecture, and
every file is downloaded.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from service.costs import cost_tables
from supernet.bundle import Bundle
from supernet.space import Architecture

JOBS = 200
WORKERS = 3
ONNX = b"\x08"  # the first byte of a file: its version comes first
PAUSE_SECONDS = (2.0, 6.0)  # between two kills
PATIENCE_SECONDS = 600.0  # for jobs to end once the kills are over


class Process:
    """A process that is started again after it was killed or has ended. ready: waits until it serves."""

    def __init__(self, name: str, start: Callable[[], subprocess.Popen[bytes]], ready: Callable[[], None]) -> None:
        self.name, self._start, self._ready = name, start, ready
        self.kills = self.ends = 0
        self._lock = threading.Lock()
        self.running = start()
        ready()

    def revive(self) -> None:
        """Start it again if it has ended by itself, as a worker does whose database is gone."""
        with self._lock:
            if self.running.poll() is not None:
                self.ends += 1
                self.running = self._start()

    def kill(self) -> None:
        """Kill it with SIGKILL and start it again."""
        with self._lock:
            self.running.send_signal(signal.SIGKILL)
            self.running.wait()
            self.kills += 1
            self.running = self._start()
        self._ready()

    def stop(self) -> None:
        """End it for good."""
        self.running.send_signal(signal.SIGINT if self.name == "postgres" else signal.SIGTERM)
        try:
            self.running.wait(30)
        except subprocess.TimeoutExpired:
            self.running.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL server that is killed, too")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long processes are killed")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        processes = [start_postgres(folder)] if options.postgres else []
        environment = settings(folder, options.postgres)
        run("db", "upgrade", env=environment)
        run("register", str(options.bundle), env=environment)
        address = f"http://127.0.0.1:{environment['SUPPLE_PORT']}"
        processes.append(Process("api", service(environment, "serve", "--no-worker"), lambda: wait_for(address)))
        processes += [
            Process(f"worker {i}", service(environment, "worker", "--id", f"chaos-{i}"), lambda: None)
            for i in range(WORKERS)
        ]
        try:
            chaos(address, Bundle.open(options.bundle), processes, options.jobs, options.seconds, rng)
        finally:
            for process in reversed(processes):
                process.stop()


def chaos(
    address: str, bundle: Bundle, processes: list[Process], jobs: int, seconds: float, rng: random.Random
) -> None:
    """Send the jobs while processes are killed, wait for all of them, and check and count them."""
    killer = threading.Thread(target=kill_processes, args=(processes, seconds, rng), daemon=True)
    over = threading.Event()
    supervisor = threading.Thread(target=supervise, args=(processes, over), daemon=True)
    client = httpx2.Client(base_url=address, timeout=30)
    tables = cost_tables(bundle.space, bundle.classes)
    floor, ceiling = float(tables.flops_cost.floors.min()), tables.flops_cost.ceiling
    limits = [rng.uniform(1.05 * floor, ceiling) for _ in range(jobs // 2)]
    killer.start()
    supervisor.start()
    pause, searches = seconds / jobs, {}
    for number, limit in enumerate(limits):
        searches[number] = persist(lambda n=number, most=limit: create_search(client, n, most))  # type: ignore[misc]
        time.sleep(2 * pause)
    answers = {number: persist(lambda i=name: ended(client, i)) for number, name in searches.items()}  # type: ignore[misc]
    files = {name: persist(lambda i=name: download(client, i)) for name in files_of(answers.values(), jobs // 2)}  # type: ignore[misc]
    killer.join()
    over.set()
    supervisor.join()
    stored = list_searches(client)
    keys = Counter(search["request"]["seed"] for search in stored)
    statuses = Counter(answer["status"] for answer in answers.values())
    exceeded = sum(not holds(tables, answer, limits[number]) for number, answer in answers.items())
    print("kills: " + ", ".join(f"{process.name} {process.kills}" for process in processes))
    print("ended by themselves: " + ", ".join(f"{process.name} {process.ends}" for process in processes))
    print(f"searches: {len(limits)} sent, {len(set(keys) & set(range(len(limits))))} stored, {dict(statuses)}")
    print(f"lost: {len(limits) - len(keys)}, doubled: {sum(count > 1 for count in keys.values())}")
    print(f"answers that exceed their limit when costed again: {exceeded}")
    built = sum(data.startswith(ONNX) for data in files.values())
    print(f"files: {len(files)} asked for, {built} ONNX files downloaded")


def kill_processes(processes: list[Process], seconds: float, rng: random.Random) -> None:
    """Kill one process after the other, chosen at random, and start it again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(*PAUSE_SECONDS))
        rng.choice(processes).kill()


def supervise(processes: list[Process], over: threading.Event) -> None:
    """Start processes that end by themselves again, as `supple serve` and a container's restart policy do."""
    while not over.wait(1.0):
        for process in processes:
            process.revive()


def persist(send: Callable[[], Any]) -> Any:
    """The result of `send`, which is tried again while the service does not answer or its database does not."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            result = send()
        except httpx2.TransportError:
            result = None
        if result is not None:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"no answer within {PATIENCE_SECONDS:g} s")
        time.sleep(0.3)


def answer_of(response: httpx2.Response) -> Any:
    """The JSON of a response; None if the service cannot answer now."""
    if response.status_code == 503:
        return None
    assert response.status_code < 400, f"{response.status_code}: {response.text}"
    return response.json()


def create_search(client: httpx2.Client, number: int, limit: float) -> str | None:
    """The id of the search with this number, created unless an earlier try created it."""
    body = {"max_flops": limit, "seed": number, "verify": number % 4 == 0}
    headers = {"Idempotency-Key": f"chaos-{number}", "Prefer": "respond-async"}
    answer = answer_of(client.post("/v1/searches", json=body, headers=headers))
    return None if answer is None else str(answer["id"])


def ended(client: httpx2.Client, search_id: str) -> Any:
    """A search that has ended; None before."""
    answer = answer_of(client.get(f"/v1/searches/{search_id}"))
    return answer if answer and answer["finished_at"] else None


def files_of(answers: Any, count: int) -> list[str]:
    """The addresses of the files of so many candidates: the best ones, then others of the fronts."""
    best = {answer["best"]["onnx"]: None for answer in answers}
    fronts = {member["onnx"]: None for answer in answers for member in answer["front"]}
    return list(best | fronts)[:count]


def download(client: httpx2.Client, path: str) -> bytes | None:
    """A file; None until it is built."""
    response = client.get(path)
    if response.status_code in (202, 503):
        return None
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    return response.content


def list_searches(client: httpx2.Client) -> list[Any]:
    """All stored searches."""
    items, cursor = [], None
    while True:
        query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = persist(lambda q=query: answer_of(client.get("/v1/searches", params=q)))  # type: ignore[misc]
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items


def holds(tables: Any, answer: Any, limit: float) -> bool:
    """Whether the best candidate of an answer, costed again from its architecture, is within the limit."""
    genome = tables.space.encode(Architecture.from_json(answer["best"]["arch"]))[None]
    return bool(tables.flops(genome)[0] <= limit)


def settings(folder: Path, is_postgres: bool) -> dict[str, str]:
    """The environment of every process of the service."""
    url = f"postgresql://postgres@127.0.0.1:{(folder / 'port').read_text()}/postgres" if is_postgres else ""
    return {
        **os.environ,
        "SUPPLE_DATA_DIRECTORY": str(folder / "data"),
        "SUPPLE_DATABASE_URL": url,
        "SUPPLE_PORT": str(free_port()),
        "SUPPLE_RATE_LIMIT": "",
    }


def service(environment: dict[str, str], *command: str) -> Callable[[], subprocess.Popen[bytes]]:
    """Starts a process of the service."""
    log = Path(environment["SUPPLE_DATA_DIRECTORY"]).parent / "log"
    return lambda: subprocess.Popen(
        [sys.executable, "-m", "service.cli", *command],
        env=environment,
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
    )


def run(*command: str, env: dict[str, str]) -> None:
    """Run a command of the service to its end."""
    subprocess.run([sys.executable, "-m", "service.cli", *command], env=env, check=True, stdout=subprocess.DEVNULL)


def wait_for(address: str) -> None:
    """Wait until the service is alive."""
    persist(lambda: answer_of(httpx2.get(f"{address}/healthz")))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_postgres(folder: Path) -> Process:
    """A new PostgreSQL server. As root, it runs as the user postgres."""
    binaries = Path(max(map(str, Path("/usr/lib/postgresql").glob("*/bin")), default=""))
    port, data = free_port(), folder / "postgres"
    (folder / "port").write_text(str(port))
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    data.mkdir()
    if user:
        shutil.chown(data, "postgres")
    initdb = [*user, str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
    command = [*user, str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(data)]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def start() -> subprocess.Popen[bytes]:
        (data / "postmaster.pid").unlink(missing_ok=True)
        return subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready() -> None:
        import psycopg

        for _ in range(300):
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError("PostgreSQL does not start")

    return Process("postgres", start, ready)


if __name__ == "__main__":
    main()
