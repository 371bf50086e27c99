"""Load on one API process: `python -m benchmarks.load BUNDLE [--other CHECKOUT]`.

1, 4 and 16 clients send searches, each with a limit of its own; meanwhile `/healthz` is asked. Then the same searches
again, which storage answers, the stored front at 100 requests a second for a minute, and memory after 500 and 5,000
searches. Times are also given as multiples of the median of such searches in this process. `--other` names a checkout
of another commit, which serves in turns with this one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2
import numpy as np

from benchmarks.chaos import free_port, persist
from service.bundles.search import search_bundle
from service.costs import cost_tables
from supernet.bundle import Bundle

CLIENTS = (1, 4, 16)
FRONTS_PER_SECOND = 100


class Service:
    """An API process that serves a bundle from a checkout."""

    def __init__(self, name: str, checkout: Path, bundle: Path, folder: Path) -> None:
        self.name, port = name, free_port()
        self.address = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout.resolve()),
            "SUPPLE_DATA_DIRECTORY": str(folder / name),
            "SUPPLE_PORT": str(port),
            "SUPPLE_RATE_LIMIT": "",
        }

        def command(*words: str) -> list[str]:
            return [sys.executable, "-m", "service.cli", *words]

        for words in (("db", "upgrade"), ("register", str(bundle.resolve()))):
            subprocess.run(command(*words), env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen(
            command("serve", "--no-worker"),
            env=environment,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        persist(lambda: httpx2.get(f"{self.address}/healthz"))

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    def send(self, bodies: list[dict[str, Any]], clients: int) -> tuple[list[float], list[float]]:
        """Milliseconds of each search, sent by so many clients at once, and of `/healthz` meanwhile."""
        alive: list[float] = []
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(alive, over))
        watcher.start()
        with httpx2.Client(base_url=self.address, timeout=300) as client, ThreadPoolExecutor(clients) as pool:
            times = list(pool.map(lambda body: timed(lambda: client.post("/v1/searches", json=body)), bodies))
        over.set()
        watcher.join()
        return times, alive

    def _watch(self, alive: list[float], over: threading.Event) -> None:
        with httpx2.Client(base_url=self.address, timeout=60) as client:
            while not over.wait(0.05):
                alive.append(timed(lambda: client.get("/healthz")))

    def front(self, seconds: float) -> tuple[int, int, list[float]]:
        """Requests for the stored front at a fixed rate: how many, how many failed, and their milliseconds."""
        name = httpx2.get(f"{self.address}/v1/supernets").json()["items"][0]["id"]
        path, failed, times = f"/v1/fronts?supernet={name}&x=flops", 0, []
        count = int(seconds * FRONTS_PER_SECOND)
        with httpx2.Client(base_url=self.address, timeout=60) as client, ThreadPoolExecutor(16) as pool:

            def get(due: float) -> float | None:
                time.sleep(max(0.0, due - time.perf_counter()))
                try:
                    return timed(lambda: client.get(path))
                except (AssertionError, httpx2.TransportError):
                    return None

            begin = time.perf_counter()
            results = list(pool.map(get, [begin + i / FRONTS_PER_SECOND for i in range(count)]))
            rate = count / (time.perf_counter() - begin)
        times = [value for value in results if value is not None]
        failed = count - len(times)
        return round(rate), failed, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--other", type=Path, metavar="CHECKOUT", help="another commit, to serve in turns with this one"
    )
    parser.add_argument("--requests", type=int, default=96, help="searches by each number of clients")
    parser.add_argument("--front-seconds", type=float, default=60.0)
    parser.add_argument("--searches", type=int, default=5000, help="searches before memory is read a second time")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    tables = cost_tables(bundle.space, bundle.classes)
    floor, ceiling = float(tables.flops_cost.floors.min()), tables.flops_cost.ceiling
    rng = np.random.default_rng(0)

    def bodies(count: int) -> list[dict[str, Any]]:
        return [{"max_flops": float(limit), "seed": 1} for limit in rng.uniform(1.1 * floor, ceiling, count)]

    def search_here(body: dict[str, Any]) -> float:
        return timed(lambda: search_bundle(bundle, {"flops": body["max_flops"]}, seed=1))

    alone = median(map(search_here, bodies(30)))
    print(f"a search in this process: {alone:.1f} ms in the median", flush=True)
    with tempfile.TemporaryDirectory() as name:
        checkouts = {"this": Path(__file__).parent.parent} | ({"other": options.other} if options.other else {})
        services = [Service(label, checkout, options.bundle, Path(name)) for label, checkout in checkouts.items()]
        try:
            for clients in CLIENTS:
                asked = bodies(options.requests)
                for kind in ("searched", "stored"):
                    for service in services:
                        times, alive = service.send(asked, clients)
                        report(f"{clients:>2} clients, {kind}, {service.name}", times, alone, max(alive, default=0.0))
            for service in services:
                rate, failed, times = service.front(options.front_seconds)
                report(f"the front, {rate} a second, {failed} failed, {service.name}", times, alone)
            watch_memory(services[0], bodies, options.searches)
        finally:
            for service in services:
                service.process.terminate()
                service.process.wait()


def report(what: str, times: list[float], alone: float, slowest_health: float | None = None) -> None:
    """Print quantiles, in ms and as multiples of a search in this process."""
    cuts = quantiles(times, n=100)
    shown = ", ".join(f"p{q} {cuts[q - 1]:.1f} ms ({cuts[q - 1] / alone:.2f})" for q in (50, 95, 99))
    health = "" if slowest_health is None else f"; /healthz at most {slowest_health:.0f} ms"
    print(f"{what}: {shown}{health}", flush=True)


def watch_memory(service: Service, bodies: Callable[[int], list[dict[str, Any]]], searches: int) -> None:
    """Print the resident memory after a tenth of the searches and after all of them."""
    service.send(bodies(searches // 10), 4)
    first = service.memory()
    service.send(bodies(searches - searches // 10), 4)
    last = service.memory()
    print(f"memory: {first / 2**20:.0f} MiB after {searches // 10} searches, {last / first:.3f} times after {searches}")


def timed(send: Callable[[], Any]) -> float:
    """Milliseconds that a call takes. A response must be a success."""
    started = time.perf_counter()
    response = send()
    elapsed = 1e3 * (time.perf_counter() - started)
    if isinstance(response, httpx2.Response):
        assert response.status_code < 300, f"{response.status_code}: {response.text}"
    return elapsed


if __name__ == "__main__":
    main()
