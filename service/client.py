"""A small client of the HTTP API, for the commands that talk to a service."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import httpx2

from service.errors import SuppleError

REQUEST_SECONDS = 90.0
SEARCH_SECONDS = 600.0  # that a search may take before we stop asking
FILE_SECONDS = 300.0  # that a file may take to be built
POLL_SECONDS = 0.3
UNREACHABLE = 503


class ServiceError(SuppleError):
    """The service refused a request, in its own words, or does not answer."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """Talks to one service, at an address such as `http://127.0.0.1:8000`.

    Raises:
        ServiceError: here, an address that is none; from every method, what the service refuses or that it is silent.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ServiceError(f"the service's address is {address!r}; it starts with http:// or https://", 400)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._address = address
        try:
            self._http = httpx2.Client(base_url=address, headers=headers, timeout=REQUEST_SECONDS)
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise ServiceError(f"the service's address is {address!r} or its key is no text: {error}", 400) from error

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
        response = self._request("GET", f"/v1/devices/{name}")
        return None if response.status_code == 404 else self._json(response)

    def check_measurable(self, name: str, space: Mapping[str, Any], *, threads: int, batch_size: int) -> None:
        """Find out, before measuring, that the service would take measurements of a space, in JSON form, on a device.

        Raises:
            ServiceError: it has no supernet of this space, or knows the device with other settings.
        """
        device = self.device(name)
        for field, asked in (("threads", threads), ("batch_size", batch_size)):
            if device is not None and device[field] != asked:
                raise ServiceError(
                    f"device {name!r} has {field} {device[field]} at {self._address}, not {asked}; measure as it is "
                    "registered, or choose another name",
                    409,
                )
        known = self._listed("/v1/supernets")
        if all(self._json(self._request("GET", f"/v1/supernets/{one['id']}"))["space"] != space for one in known):
            raise ServiceError(
                f"no supernet at {self._address} has the search space {space['name']!r} of this bundle; run `supple "
                "register` there first",
                404,
            )

    def _listed(self, path: str) -> Iterator[dict[str, Any]]:
        """Everything in a list that comes in pages."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._json(self._request("GET", f"{path}?cursor={cursor}" if cursor else path))
            yield from page["items"]
            cursor = page["next"]

    def post_measurements(self, name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Register a device should it be new, and post what a probe measured. Returns the latency model fitted."""
        if self.device(name) is None:
            about = {"runtime": measured["host"]["runtime"]}
            about |= {field: measured[field] for field in ("threads", "batch_size")}
            self._json(self._request("POST", "/v1/devices", json={"name": name, **about}))
        answer: dict[str, Any] = self._json(
            self._request("POST", f"/v1/devices/{name}/measurements", json=dict(measured))
        )
        return answer

    def search(
        self,
        body: Mapping[str, Any],
        watch: Callable[[Mapping[str, Any]], None] = lambda search: None,
        seconds: float = SEARCH_SECONDS,
    ) -> dict[str, Any]:
        """Post a search and ask for it until it has ended. watch: called with the search as it stands.

        Raises:
            ServiceError: it has not ended after so many seconds.
        """
        until = time.monotonic() + seconds
        found: dict[str, Any] = self._json(
            self._request("POST", "/v1/searches", json=dict(body), headers={"Prefer": "respond-async"})
        )
        while found["status"] in ("queued", "running"):
            watch(found)
            if time.monotonic() > until:
                raise ServiceError(
                    f"search {found['id']} is still {found['status']} after {seconds:g} s; see that a worker runs, "
                    f"then ask for {self._address}/v1/searches/{found['id']}",
                    UNREACHABLE,
                )
            time.sleep(POLL_SECONDS)
            found = self._json(self._request("GET", f"/v1/searches/{found['id']}"))
        return found

    def download(self, path: str, seconds: float = FILE_SECONDS) -> bytes:
        """A file that may have to be built first, such as a candidate's ONNX.

        Raises:
            ServiceError: it is not there after so many seconds.
        """
        until = time.monotonic() + seconds
        response = self._request("GET", path)
        while response.status_code == 202:
            if time.monotonic() > until:
                raise ServiceError(
                    f"{self._address}{path} is not built after {seconds:g} s; see that a worker runs, then ask again",
                    UNREACHABLE,
                )
            time.sleep(min(POLL_SECONDS, float(response.headers.get("Retry-After", POLL_SECONDS))))
            response = self._request("GET", path)
        if not response.is_success:
            self._json(response)
        return response.content

    def _request(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        try:
            return self._http.request(method, path, **parts)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServiceError(
                f"the service at {self._address} does not answer: {error or type(error).__name__}; see that it runs "
                "and that the address is right",
                UNREACHABLE,
            ) from error

    def _json(self, response: httpx2.Response) -> Any:
        """What the service answered. Raises ServiceError for a refusal, and for what is no answer of ours."""
        try:
            data = response.json()
        except ValueError as error:
            raise ServiceError(
                f"{response.request.url} answered {response.status_code} without JSON; is it a Supple service?",
                response.status_code if response.is_error else UNREACHABLE,
            ) from error
        if not response.is_success:
            detail = data.get("detail", response.text) if isinstance(data, dict) else response.text
            raise ServiceError(f"{response.request.url}: {detail}", response.status_code)
        return data
