"""The package `supple`: every stable name has a docstring, and its examples run; importing it is light."""

import doctest
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import supple
from service import processes
from service.cli.demo import demo_settings
from service.client import Client
from service.context import store_of
from service.storage.database import Database
from service.supernets.register import register_supernet
from tests.support.trainable import write_trainable

ADDRESS = "http://127.0.0.1:8000"  # in the examples
EXCEPTIONS = {"Refused", "ServiceError"}


def examples(name: str) -> doctest.DocTest:
    """The examples in the docstring of a name, or of the package."""
    documented = supple if name == "supple" else getattr(supple, name)
    assert documented.__doc__
    return doctest.DocTestParser().get_doctest(documented.__doc__, dict(vars(supple)), name, None, None)


def run_examples(test: doctest.DocTest) -> None:
    assert test.examples
    printed: list[str] = []
    failed = doctest.DocTestRunner().run(test, out=printed.append).failed
    assert not failed, "".join(printed)


@pytest.fixture
def working_directory(tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the bundle that the examples open."""
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "bundle").symlink_to(bundle_path)
    write_trainable(tmp_path / "runs" / "mine" / "bundle")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def address(working_directory: Path, sqlite_template: Path, bundle_path: Path) -> Iterator[str]:
    """The address of a service with a worker and one supernet."""
    settings = demo_settings(working_directory, processes.free_port())
    (working_directory / "supple.db").write_bytes(sqlite_template.read_bytes())
    database = Database(settings.database)
    with database.writing() as session:
        register_supernet(session, store_of(settings), bundle_path)
    database.close()
    process = processes.start("serve", settings)
    address = f"http://127.0.0.1:{settings.port}"
    try:
        with Client(address) as client:
            deadline = time.monotonic() + 60
            while not client.is_ready():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        processes.stop(process, 20)


@pytest.mark.parametrize("name", ["supple", *sorted(set(supple.__all__) - EXCEPTIONS - {"Client"})])
def test_the_examples_run(name: str, working_directory: Path) -> None:
    run_examples(examples(name))


@pytest.mark.slow
def test_the_example_of_the_client_runs(address: str) -> None:
    test = examples("Client")
    for example in test.examples:
        example.source = example.source.replace(ADDRESS, address)
    run_examples(test)


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exceptions_are_documented(name: str) -> None:
    exception = getattr(supple, name)
    assert issubclass(exception, Exception)
    assert exception.__doc__


def test_importing_and_searching_load_no_torch(working_directory: Path) -> None:
    program = """
import sys
import supple
print(*sys.modules)
bundle = supple.open_bundle("runs/digits/bundle")
assert supple.search(bundle, {"flops": 1_000_000}, evaluations=100)["best"]
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    imported, searched = (set(line.split()) for line in ran.stdout.splitlines())
    assert "numpy" in imported
    assert not imported & {"torch", "torchvision", "fastapi", "dbos", "sqlalchemy", "onnx", "onnxruntime"}
    assert not searched & {"torch", "torchvision", "dbos", "onnx", "onnxruntime"}
