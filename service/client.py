"""A client of the HTTP API, for programs, notebooks and the commands that talk to a service."""

import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.request import proxy_bypass

import httpx2

from service.errors import SuppleError, without_password

REQUEST_SECONDS = 90.0
SEARCH_SECONDS = 600.0  # how long to wait for a search
FILE_SECONDS = 300.0  # how long to wait for a file to be built
TRAINING_SECONDS = 24 * 3600.0  # how long to wait for a network to be fine-tuned
POLL_SECONDS = 0.3
UNREACHABLE = 503


class ServiceError(SuppleError):
    """The service refused a request, or it does not answer. The message is the service's own where it gave one."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """A connection to one service. Answers are the JSON that `/docs` at the service describes.

    >>> with Client("http://127.0.0.1:8000") as client:
    ...     answer = client.search({"max_flops": 1_000_000})
    ...     onnx = client.download(answer["best"]["onnx"])
    >>> answer["status"], answer["best"]["flops"] <= 1_000_000
    ('done', True)

    address: such as `http://127.0.0.1:8000`. key: an API key, if the service needs one. Requests to this machine never
    go through a proxy; others go through the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names.

    Raises:
        ServiceError: the address or the key cannot be used. Every method raises it too, when the service refuses a
            request or does not answer.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self._address = without_password(address)
        if not address.startswith(("http://", "https://")):
            raise ServiceError(
                f"the service's address is {self._address!r}; it must start with http:// or https://", 400
            )
        try:
            url = httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise ServiceError(f"the service's address {self._address!r} cannot be used: {error}", 400) from error
        self._proxy_variable = _proxy_variable(url)
        try:
            self._http = httpx2.Client(
                base_url=url,
                headers=_authorization(key),
                timeout=REQUEST_SECONDS,
                verify=httpx2.create_ssl_context() if url.scheme == "https" else True,
                trust_env=self._proxy_variable is not None,
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            if self._proxy_variable is None:
                raise
            raise ServiceError(
                f"requests to {self._address} would go through the proxy that {self._proxy_variable} names, which "
                f"cannot be used: it must start with http:// or https://; change {self._proxy_variable}, or add "
                f"{url.host} to NO_PROXY",
                400,
            ) from error

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

    def get_readiness(self) -> dict[str, Any]:
        """What /readyz says. Raises ServiceError if the service is not ready, with the reason."""
        readiness: dict[str, Any] = self._json(self._request("GET", "/readyz"))
        return readiness

    def get_device(self, name: str) -> dict[str, Any] | None:
        """A device, or None if the service has no device of this name."""
        response = self._request("GET", f"/v1/devices/{name}")
        return None if response.status_code == 404 else self._json(response)

    def check_measurable(self, name: str, space: Mapping[str, Any], *, threads: int, batch_size: int) -> None:
        """Check, before measuring, that the service would accept the measurements. space: a search space in JSON form.

        Raises:
            ServiceError: the service has no supernet of this space, or has the device with other settings.
        """
        device = self.get_device(name)
        for field, value in (("threads", threads), ("batch_size", batch_size)):
            if device is not None and device[field] != value:
                raise ServiceError(
                    f"device {name!r} has {field} {device[field]} at {self._address}, not {value}; measure as it is "
                    "registered, or choose another name",
                    409,
                )
        supernets = self._list("/v1/supernets")
        if all(self._json(self._request("GET", f"/v1/supernets/{row['id']}"))["space"] != space for row in supernets):
            raise ServiceError(
                f"no supernet at {self._address} has the search space {space['name']!r} of this bundle; run `supple "
                "register` there first",
                404,
            )

    def _list(self, path: str) -> Iterator[dict[str, Any]]:
        """The items of all pages of a list."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._json(self._request("GET", f"{path}?cursor={cursor}" if cursor else path))
            yield from page["items"]
            cursor = page["next"]

    def post_measurements(self, name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Post what a probe measured on a device, which is registered first if it is new. Returns the latency model."""
        if self.get_device(name) is None:
            settings = {"runtime": measured["host"]["runtime"]}
            settings |= {field: measured[field] for field in ("threads", "batch_size")}
            self._json(self._request("POST", "/v1/devices", json={"name": name, **settings}))
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
        """Post a search and wait until it has ended. watch: called with the unfinished search at each poll.

        Raises:
            ServiceError: the search has not ended after `seconds`.
        """
        deadline = time.monotonic() + seconds
        search: dict[str, Any] = self._json(
            self._request("POST", "/v1/searches", json=dict(body), headers={"Prefer": "respond-async"})
        )
        while search["status"] in ("queued", "running", "verifying"):
            watch(search)
            if time.monotonic() > deadline:
                waiting = ((search.get("progress") or {}).get("waiting") or {}).values()
                raise ServiceError(
                    f"search {search['id']} is still {search['status']} after {seconds:g} s; "
                    f"{'; '.join(waiting) or 'check that a worker runs'}; "
                    f"then get {self._address}/v1/searches/{search['id']}",
                    UNREACHABLE,
                )
            time.sleep(POLL_SECONDS)
            search = self._json(self._request("GET", f"/v1/searches/{search['id']}"))
        return search

    def finetune(
        self,
        candidate_id: str,
        body: Mapping[str, Any],
        watch: Callable[[Mapping[str, Any]], None] = lambda fine_tuning: None,
        seconds: float = TRAINING_SECONDS,
    ) -> dict[str, Any]:
        """Have a candidate trained alone, as in `{"epochs": 10}`, and wait until it has ended.

        watch: called with the unfinished fine-tuning at each poll.

        Raises:
            ServiceError: it was cancelled, it failed, or it has not ended after `seconds`; it goes on then.
        """
        deadline = time.monotonic() + seconds
        row: dict[str, Any] = self._json(
            self._request("POST", f"/v1/candidates/{candidate_id}/finetune", json=dict(body))
        )
        while row["status"] in ("queued", "running"):
            watch(row)
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"fine-tuning {row['id']} is still {row['status']} after {seconds:g} s; check that a worker runs, "
                    f"then get {self._address}/v1/finetunes/{row['id']}",
                    UNREACHABLE,
                )
            time.sleep(POLL_SECONDS)
            row = self._json(self._request("GET", f"/v1/finetunes/{row['id']}"))
        if row["status"] != "done":
            problem = row["problem"] or {"detail": "request it again to go on", "status": 409}
            raise ServiceError(f"fine-tuning {row['id']} {row['status']}: {problem['detail']}", problem["status"])
        return row

    def download(self, path: str, seconds: float = FILE_SECONDS) -> bytes:
        """A file, such as a candidate's ONNX. Waits until the service has built it.

        Raises:
            ServiceError: the file is not built after `seconds`.
        """
        deadline = time.monotonic() + seconds
        response = self._request("GET", path)
        while response.status_code == 202:
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self._address}{path} is not built after {seconds:g} s; check that a worker runs, then try again",
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
            through = f" through the proxy that {self._proxy_variable} names" if self._proxy_variable else ""
            raise ServiceError(
                f"the service at {self._address} does not answer{through}: {error or type(error).__name__}; check that "
                "it runs and that the address is right"
                + (f", or add {self._http.base_url.host} to NO_PROXY" if self._proxy_variable else ""),
                UNREACHABLE,
            ) from error

    def _json(self, response: httpx2.Response) -> Any:
        """The JSON of a response.

        Raises:
            ServiceError: the service refused the request, or the response is not JSON.
        """
        url = without_password(str(response.request.url))
        try:
            data = response.json()
        except ValueError as error:
            raise ServiceError(
                f"{url} answered {response.status_code} without JSON; is it a Supple service?",
                response.status_code if response.is_error else UNREACHABLE,
            ) from error
        if not response.is_success:
            detail = data.get("detail", response.text) if isinstance(data, dict) else response.text
            raise ServiceError(f"{url}: {detail}", response.status_code)
        return data


def _authorization(key: str | None) -> dict[str, str]:
    """The header that sends a key, without the blanks and line breaks that a file may have around it.

    Raises:
        ServiceError: the key holds characters that no key has. The message shows only the first of them.
    """
    key = (key or "").strip()
    if strange := next((character for character in key if not "!" <= character <= "~"), None):
        raise ServiceError(
            f"the key holds the character U+{ord(strange):04X}, which no key has; copy it again as `supple keys "
            "create` printed it",
            400,
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def _proxy_variable(url: httpx2.URL) -> str | None:
    """The environment variable that names the proxy of requests to this address; None if they go through no proxy."""
    if _is_loopback(url.host) or proxy_bypass(url.host):
        return None
    variables = {name.lower(): name for name in os.environ if os.environ[name]}
    return variables.get(f"{url.scheme}_proxy") or variables.get("all_proxy")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
