"""The sdist, the wheel built from it, and the installed commands in an empty directory outside the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PACKAGES = ("supple", "service", "supernet", "evolution", "migrations", "configs")
FOLDERS = (*PACKAGES, "benchmarks", "docs", "tests")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
PAGES = """
from fastapi.testclient import TestClient
from service.app import create_app
from service.settings import Settings
client = TestClient(create_app(Settings()), base_url="http://localhost:8000")
assert client.get("/").status_code == 200
assert client.get("/docs").status_code == 200
"""


FILES = """
import migrations, supple
from service.cli.demo import CONFIG
print(migrations.__file__, supple.__file__, CONFIG)
"""


@dataclass(frozen=True)
class Distributions:
    """The sdist and the wheel, and the sources that they were made from."""

    source: Path
    sdist: Path
    wheel: Path

    def files(self, *folders: str) -> set[str]:
        """The paths of the source files in some folders."""
        paths = (path for folder in folders for path in (self.source / folder).rglob("*") if path.is_file())
        return {str(path.relative_to(self.source)) for path in paths}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist is made from a copy of the clone, and the wheel from the unpacked sdist, as pip does."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    copied = {str(path.relative_to(source)) for path in source.rglob("*")}
    build("build_sdist", source, folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    build("build_wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)
    (wheel,) = folder.glob("*.whl")
    for path in sorted(source.rglob("*"), reverse=True):  # what the build left there
        if str(path.relative_to(source)) not in copied:
            path.rmdir() if path.is_dir() else path.unlink()
    return Distributions(source, sdist, wheel)


def build(hook: str, source: Path, output: Path) -> None:
    subprocess.run([sys.executable, "-P", "-c", BUILD, hook, output], cwd=source, capture_output=True, check=True)


@pytest.fixture(scope="module")
def environment(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel alone; its dependencies come from the environment of these tests.

    A line of a .pth file adds a directory without its own .pth files, so an editable installation there has no effect.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(distributions.wheel)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(environment: Path, directory: Path, program: str, *arguments: str | Path) -> str:
    """Run a program of the environment in a directory; what it printed."""
    variables = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("SUPPLE_")
    }
    command = [environment / "bin" / program, *arguments]
    ran = subprocess.run(command, cwd=directory, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == distributions.files(*PACKAGES)
    expected = {
        "configs/digits.yaml",
        "migrations/script.py.mako",
        "service/devices/probe.py",
        "service/pages/static/app.js",
        "service/pages/templates/base.html",
    }
    assert expected <= files


def test_the_sdist_holds_every_file(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert distributions.files(*FOLDERS) <= files
    assert {"Makefile", "alembic.ini", "constraints.txt", "LICENSE", "README.md", "docker-compose.yml"} <= files


def test_the_installed_package_works_in_an_empty_directory(
    environment: Path, bundle_path: Path, tmp_path: Path
) -> None:
    for path in run(environment, tmp_path, "python", "-P", "-c", FILES).split():
        assert Path(path).is_relative_to(environment)
        assert Path(path).is_file()
    assert run(environment, tmp_path, "supple", "--version") == f"supple {version('supple')}\n"
    answer = run(environment, tmp_path, "supple", "search", bundle_path, "--max-flops", "1M", "--json")
    assert json.loads(answer)["best"]["flops"] <= 1_000_000
    run(environment, tmp_path, "supple", "db", "upgrade")
    assert (tmp_path / "supple-data" / "supple.db").is_file()
    run(environment, tmp_path, "python", "-P", "-c", PAGES)
