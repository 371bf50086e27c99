"""Latency of POST /v1/searches over HTTP, predictor only: `python -m benchmarks.searches URL DEVICE`.

Needs a running service with one supernet and the device, such as `supple demo` leaves. Every request asks a budget of
its own, from just above the least latency to four times as much, so that none is answered from a cache.

`--beside URL` sends every request to a second service as well, in turns, such as one of another commit that serves the
same bundle and measurements on another port.
"""

import argparse
import time
from statistics import median, quantiles
from typing import Any

import httpx2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("device")
    parser.add_argument("--beside", metavar="URL")
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng()
    urls = [options.url, *([options.beside] if options.beside else [])]
    clients = [httpx2.Client(base_url=url, timeout=60) for url in urls]
    refused = clients[0].post("/v1/searches", json={"device": options.device, "max_latency_ms": 1e-9}).json()
    floor = next(iter(refused["floors"].values()))
    milliseconds: list[list[float]] = [[] for _ in clients]
    for number in range(options.requests):
        body = {
            "device": options.device,
            "max_latency_ms": floor * rng.uniform(1.05, 4),
            "seed": int(rng.integers(2**31)),
        }
        for turn in range(len(clients)):
            which = (number + turn) % len(clients)
            milliseconds[which].append(_post(clients[which], body))
    for url, times in zip(urls, milliseconds, strict=True):
        p95 = quantiles(times, n=20)[-1]
        print(f"{url}: {options.requests} requests, p50 {median(times):.0f} ms, p95 {p95:.0f} ms")
    if options.beside:
        print(f"p50 is {median(milliseconds[0]) / median(milliseconds[1]):.2f} of the other's")


def _post(client: httpx2.Client, body: dict[str, Any]) -> float:
    """The milliseconds that the answer takes."""
    started = time.perf_counter()
    response = client.post("/v1/searches", json=body)
    assert response.status_code == 201, response.text
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
