import re
import shlex
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from service.bundles.config import read_config
from service.cli.main import app
from service.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "supple"}
# Dockerfile: [instruction, rest], with continued lines joined.
DOCKERFILE = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)).splitlines()
    if line
]


def instructions(name: str) -> list[str]:
    return [rest for instruction, rest in DOCKERFILE if instruction == name]


def exit_code(command: list[str]) -> int:
    """Of the command line, which reads all options before it shows the help."""
    assert command[0] == "supple"
    return CliRunner().invoke(app, [*command[1:], "--help"]).exit_code


def commands() -> dict[str, list[str]]:
    """Every `supple` command that the two files start or tell the reader to run."""
    found = {name: service["command"] for name, service in OURS.items()}
    found["image"] = yaml.safe_load(instructions("CMD")[-1])
    for line in re.findall(
        r"docker compose run --rm \w+ (supple .*?)(?:  |\n)", (ROOT / "docker-compose.yml").read_text()
    ):
        found[line] = shlex.split(line)
    return found


@pytest.mark.parametrize("name", commands())
def test_commands_and_their_options_exist(name: str) -> None:
    assert exit_code(commands()[name]) == 0


def test_the_check_of_commands_finds_what_does_not_exist() -> None:
    assert exit_code(["supple", "serve", "--no-such-option"]) == 2
    assert exit_code(["supple", "nothing"]) == 2
    assert len(commands()) == 7


def test_the_processes_of_the_demo_are_there() -> None:
    assert set(SERVICES) == {"postgres", "migrate", "api", "worker", "trainer"}
    assert {name: service["command"][:2] for name, service in OURS.items()} == {
        "migrate": ["supple", "db"],
        "api": ["supple", "serve"],
        "worker": ["supple", "worker"],
        "trainer": ["supple", "train"],
    }
    assert "--no-worker" in SERVICES["api"]["command"]
    assert SERVICES["trainer"]["profiles"] == ["train"]
    assert not any("profiles" in service for name, service in SERVICES.items() if name != "trainer")


def test_the_database_is_migrated_once_before_anything_uses_it() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"] == {
            "postgres": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        }
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]


def test_every_setting_is_one_and_says_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    image = dict(pair.split("=", 1) for rest in instructions("ENV") for pair in shlex.split(rest))
    for name, service in OURS.items():
        environment = {**image, **service["environment"]}
        ours = {key.removeprefix("SUPPLE_").lower(): value for key, value in environment.items() if "SUPPLE" in key}
        assert set(ours) <= set(Settings.model_fields), name
        for key, value in ours.items():
            monkeypatch.setenv(f"SUPPLE_{key.upper()}", value)
        settings = Settings()
        assert settings.database == "postgresql://supple@postgres/supple"
        assert f"data:{settings.data_directory}" in service["volumes"]
        assert Path(settings.store_location).is_relative_to(settings.data_directory)
    assert (
        SERVICES["postgres"]["environment"]["POSTGRES_USER"]
        == SERVICES["postgres"]["environment"]["POSTGRES_DB"]
        == "supple"
    )


def test_nothing_is_open_to_others_without_a_key_or_a_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "Dockerfile").read_text()
    assert "insecure" not in text.lower()
    assert Settings(host=SERVICES["api"]["command"][-1]).needs_key
    assert [port for service in SERVICES.values() for port in service.get("ports", [])] == [
        "127.0.0.1:${PORT:-8000}:8000"
    ]
    passwords = {SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]}
    passwords |= {service["environment"]["PGPASSWORD"] for service in OURS.values()}
    assert len(passwords) == 1
    assert passwords.pop().startswith("${POSTGRES_PASSWORD:?")


def test_the_health_check_asks_what_answers_without_a_key(client: TestClient) -> None:
    address = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", instructions("HEALTHCHECK")[-1])
    assert address
    assert int(address[1]) == Settings().port == int(instructions("EXPOSE")[-1])
    assert client.get(address[2]).status_code == 200
    checked = {name for name, service in OURS.items() if not service.get("healthcheck", {}).get("disable")}
    assert checked == {"api"}


def test_the_health_check_goes_through_no_proxy(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    command = yaml.safe_load(instructions("HEALTHCHECK")[-1].partition("CMD ")[2])
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        code = command[2].replace(":8000/", f":{server.server_port}/")
        ended = subprocess.run([sys.executable, *command[1:2], code], capture_output=True, check=False)
        server.server_close()
    assert (ended.returncode, requests) == (0, ["/readyz"]), ended.stderr


def test_the_image_does_not_run_as_root_and_has_the_tested_versions() -> None:
    assert DOCKERFILE.index(["USER", "supple"]) > max(i for i, line in enumerate(DOCKERFILE) if line[0] == "FROM")
    assert all("--constraint constraints.txt" in rest for rest in instructions("RUN") if "pip install" in rest)


def test_the_image_is_made_of_files_that_are_sent_to_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line[0] == "!"}
    copied = {source for rest in instructions("COPY") if "--from" not in rest for source in rest.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied


def test_the_installed_package_has_the_files_of_the_pages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["service"]
    files = [path.relative_to(ROOT / "service") for path in (ROOT / "service" / "pages").rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert len(data) > 10
    assert [path for path in data if not any(fnmatch(str(path), pattern) for pattern in patterns)] == []


def test_the_trainer_has_its_configuration() -> None:
    command = SERVICES["trainer"]["command"]
    assert "configs" in {source for rest in instructions("COPY") for source in rest.split()[:-1]}
    assert read_config(ROOT / command[2]).name == "digits"
    outside = [word for word in command if word.startswith("/")]
    assert len(outside) == 2
    assert all(word.startswith("/data/") for word in outside)


def test_the_trainer_has_room_for_the_images_that_its_workers_hand_over() -> None:
    assert SERVICES["trainer"]["shm_size"] == "2gb"
