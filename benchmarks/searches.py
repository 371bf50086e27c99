"""Latency of POST /v1/searches over HTTP, predictor only: `python -m benchmarks.searches URL DEVICE`.

Needs a running service with one supernet and the device, such as `supple demo` leaves. Every request asks a budget of
its own, from just above the least latency to four times as much, so that none is answered from a cache.
"""

import argparse
import time
from statistics import median, quantiles

import httpx2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("device")
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng()
    with httpx2.Client(base_url=options.url, timeout=60) as client:
        refused = client.post("/v1/searches", json={"device": options.device, "max_latency_ms": 1e-9}).json()
        floor = next(iter(refused["floors"].values()))
        milliseconds = []
        for _ in range(options.requests):
            body = {
                "device": options.device,
                "max_latency_ms": floor * rng.uniform(1.05, 4),
                "seed": int(rng.integers(2**31)),
            }
            started = time.perf_counter()
            response = client.post("/v1/searches", json=body)
            milliseconds.append(1e3 * (time.perf_counter() - started))
            assert response.status_code == 201, response.text
    p95 = quantiles(milliseconds, n=20)[-1]
    print(f"{options.requests} requests: p50 {median(milliseconds):.0f} ms, p95 {p95:.0f} ms")


if __name__ == "__main__":
    main()
