"""A small client of the HTTP API, for the commands that talk to a service."""

import time
from collections.abc import Mapping
from typing import Any, Self

import httpx2


class ServiceError(ValueError):
    """The service refused a request; the message is its own."""


class Client:
    """Talks to one service. Errors of the service become `ServiceError` with its own words."""

    def __init__(self, address: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=90)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether the service answers and can do its work."""
        try:
            return self._http.get("/readyz").is_success
        except httpx2.TransportError:
            return False

    def device(self, name: str) -> dict[str, Any] | None:
        """A device, None when the service does not know it."""
        response = self._http.get(f"/v1/devices/{name}")
        return None if response.status_code == 404 else self._json(response)

    def post_measurements(self, name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Register a device should it be new, and post what a probe measured. Returns the latency model fitted."""
        if self.device(name) is None:
            about = {"runtime": measured["host"]["runtime"]}
            about |= {field: measured[field] for field in ("threads", "batch_size")}
            self._json(self._http.post("/v1/devices", json={"name": name, **about}))
        return self._json(self._http.post(f"/v1/devices/{name}/measurements", json=dict(measured)))

    def search(self, body: Mapping[str, Any], wait: int = 60) -> dict[str, Any]:
        """Post a search and wait up to about a minute for the answer at a time until there is one."""
        response = self._http.post("/v1/searches", json=dict(body), headers={"Prefer": f"wait={wait}"})
        found = self._json(response)
        while found["status"] in ("queued", "running"):
            time.sleep(0.3)
            found = self._json(self._http.get(f"/v1/searches/{found['id']}"))
        return found

    def download(self, path: str) -> bytes:
        """A file that may have to be built first, such as a candidate's ONNX."""
        response = self._http.get(path)
        while response.status_code == 202:
            time.sleep(float(response.headers.get("Retry-After", 1)))
            response = self._http.get(path)
        if not response.is_success:
            self._json(response)
        return response.content

    def _json(self, response: httpx2.Response) -> dict[str, Any]:
        data: dict[str, Any] = response.json()
        if not response.is_success:
            raise ServiceError(f"{response.request.url}: {data.get('detail', response.text)}")
        return data
