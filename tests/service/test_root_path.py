"""The service under a path prefix, behind a reverse proxy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient

from service.app import create_app
from service.cli.serve import serve
from service.client import Client, ServiceError
from service.context import Context
from service.keys.keys import create_key
from service.processes import free_port
from service.settings import Settings
from service.supernets.register import register_supernet
from tests.support.service import LOCAL
from tests.support.waiting import wait

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
LINK = re.compile(r'(?:href|src|action|hx-get|hx-post)="(/[^"]*)"')


@pytest.fixture
def settings(sqlite_template: Path, tmp_path: Path, bundle_path: Path) -> Settings:
    """Of a service under /supple, with a registered supernet."""
    shutil.copy(sqlite_template, tmp_path / "supple.db")
    settings = Settings(data_directory=tmp_path, root_path="/supple", port=free_port())
    context = Context(settings)
    with context.database.writing() as session:
        register_supernet(session, context.store, bundle_path)
    context.close()
    return settings


@pytest.mark.parametrize("prefix", ["", "/supple"])  # of the path that arrives: the proxy strips the prefix or not
def test_every_link_of_every_page_leads_below_the_prefix(prefix: str, settings: Settings) -> None:
    with TestClient(create_app(settings), base_url=LOCAL) as client:
        supernet = client.get(f"{prefix}/v1/supernets").json()["items"][0]["id"]
        form = {"supernet": supernet, "max_flops": "1M"}
        answer = client.post(f"{prefix}/searches", data=form, follow_redirects=False)
        assert answer.headers["location"].startswith("/supple/searches/")
        pages = [answer.headers["location"], *(f"{prefix}{path}" for path in ("/", "/fronts", "/docs", "/login"))]
        links = [link for page in pages for link in LINK.findall(client.get(page).text)]
        assert {link.partition("/supple/")[0] for link in links} == {""}
        for link in {link for link in links if "/static/" in link or "/searches/" in link or link.endswith("json")}:
            assert client.get(link).status_code == 200, link
        assert "/supple/v1/searches</pre>" in client.get(pages[0]).text
        posted = client.post(f"{prefix}/v1/devices", json={"name": "board"})
        assert posted.headers["location"] == "/supple/v1/devices/board"
        slashed = client.get(f"{prefix}/fronts/", follow_redirects=False)
        assert slashed.headers["location"] == f"{LOCAL}/supple/fronts"
        assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/supple"}]
        assert 'route="/v1/devices"' in client.get(f"{prefix}/metrics").text
        assert client.get("/supplement/v1/devices").status_code == 404
        assert client.get("/supple").status_code == 200


@pytest.fixture(params=["/", ""], ids=["stripped", "passed on"])
def proxied(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of the service behind nginx, which says that callers use HTTPS, and a key."""
    if NGINX is None:
        pytest.skip("no nginx")
    context = Context(settings)
    with context.database.writing() as session:
        key = create_key(session, "mine", ["admin"])
    context.close()
    port = free_port()
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; {'user root;' if os.getuid() == 0 else ''}"
        f"events {{}} http {{ access_log off; {folders} server {{ listen 127.0.0.1:{port}; location /supple/ {{"
        f"proxy_pass http://127.0.0.1:{settings.port}{request.param}; proxy_set_header Host $http_host;"
        f"proxy_set_header X-Forwarded-Proto https; }} }} }}"
    )
    environment = os.environ | {
        "SUPPLE_DATA_DIRECTORY": str(tmp_path),
        "SUPPLE_ROOT_PATH": "/supple",
        "SUPPLE_HOST": "0.0.0.0",
        "SUPPLE_PORT": str(settings.port),
    }
    command: list[Any] = [sys.executable, "-P", "-m", "service.cli", "serve", "--no-worker"]
    service = subprocess.Popen(command, env=environment)
    options = ["-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    nginx = subprocess.Popen([NGINX, *options])
    address = f"http://127.0.0.1:{port}/supple"

    def answers() -> bool:
        try:
            return httpx2.get(f"{address}/readyz").is_success
        except httpx2.TransportError:
            return False

    try:
        wait(lambda: answers() or None not in (service.poll(), nginx.poll()), "the service behind nginx")
        yield address, key
    finally:
        for process in (nginx, service):
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_a_browser_and_a_program_use_the_service_behind_nginx(proxied: tuple[str, str]) -> None:
    address, key = proxied
    host = address.removesuffix("/supple")
    with httpx2.Client() as browser:
        page = browser.get(f"{address}/")
        assert page.status_code == 401
        assert all(browser.get(host + link).status_code == 200 for link in LINK.findall(page.text) if "static" in link)
        signed_in = browser.post(f"{address}/login", data={"key": key, "next": "/fronts"})
        assert signed_in.status_code == 303
        assert signed_in.headers["location"] == "/supple/fronts"
        cookie = signed_in.headers["set-cookie"].lower()
        assert "path=/supple;" in cookie
        assert "secure" in cookie  # nginx, a trusted address, says that the caller uses HTTPS
    headers = {"Authorization": f"Bearer {key}"}
    created = httpx2.post(f"{address}/v1/devices", json={"name": "board"}, headers=headers)
    assert created.headers["location"] == "/supple/v1/devices/board"
    found = httpx2.post(f"{address}/v1/searches", json={"max_flops": 1_000_000, "evaluations": 300}, headers=headers)
    best = found.json()["best"]
    with Client(address, key) as client:
        assert client.get_device("board") is not None
        with pytest.raises(ServiceError, match=f"{best['id']}/onnx is not built after 0 s"):  # no worker runs here
            client.download(best["onnx"], seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize(("trusted", "secure"), [("127.0.0.0/8", True), ("10.1.2.3", False), ("", False)])
def test_forwarded_headers_count_from_trusted_addresses_alone(
    trusted: str, secure: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: configs.append(server.config))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    serve(settings.model_copy(update={"trusted_proxies": trusted}), workers=0)
    configs[0].load()
    with TestClient(configs[0].loaded_app, base_url=LOCAL, client=("127.0.0.1", 50_000)) as client:
        supernet = client.get("/v1/supernets").json()["items"][0]["id"]
        headers = {"X-Forwarded-Proto": "https"}
        page = client.post("/searches", data={"supernet": supernet, "max_flops": "1M"}, headers=headers)
        assert (
            "https://localhost:8000/supple/v1/searches" in client.get(page.url.path, headers=headers).text
        ) == secure
