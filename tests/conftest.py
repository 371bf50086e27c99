"""What tests share: fresh databases made by the real migrations, a small bundle, and a service with a measured device.

PostgreSQL is looked for at SUPPLE_TEST_POSTGRES. Without it, its tests are skipped, or fail if
SUPPLE_TEST_REQUIRE_POSTGRES is 1.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from service.app import create_app
from service.context import Context
from service.devices.measurements import fit
from service.devices.schemas import MeasurementsIn
from service.settings import Settings
from service.storage.database import Database
from service.supernets.register import register_supernet
from service.upgrade import upgrade
from supernet.families import preset
from tests.support.command_line import Ran
from tests.support.postgres import SERVER, empty_postgres, empty_tables
from tests.support.s3 import s3_server
from tests.support.service import HOST, LOCAL, add_device, make_measurements

# Before torch is loaded, here and in what tests start: threads gain such small networks nothing and cost much where
# other processes compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Temporary files go to memory where there is room: thousands of small files, each flushed to the disk, are a quarter of
# the time of all tests.
MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that of several processes none is left waiting for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_story.py")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "supple.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[str]:
    """The name of a database with every migration, to copy."""
    try:
        psycopg.connect(SERVER, connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if os.environ.get("SUPPLE_TEST_REQUIRE_POSTGRES") == "1":
            pytest.fail(f"no PostgreSQL at {SERVER}, and SUPPLE_TEST_REQUIRE_POSTGRES is 1: {error}")
        pytest.skip(f"no PostgreSQL at {SERVER}; set SUPPLE_TEST_POSTGRES")
    with empty_postgres() as url:
        upgrade(url)
        yield make_url(url).database or ""


@pytest.fixture(scope="session")
def postgres_url(postgres_template: str) -> Iterator[str]:
    """One database for all tests of this process: emptying it takes a tenth of the time that a new one takes."""
    with empty_postgres(postgres_template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database with every migration, on each of the two."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "supple.db")
        yield f"sqlite:///{tmp_path / 'supple.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
        empty_tables(url)
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bundle on the digits space. Its predictor has learnt that more FLOPs are more accurate."""
    import torch

    from supernet.bundle_writing import write_bundle
    from supernet.data import Images, Normalization
    from supernet.evaluation.views import Views
    from supernet.families import supernet_class
    from supernet.networks.supernet import initialise

    directory = tmp_path_factory.mktemp("bundle")
    space = preset("mbv3-digits")
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, 200)
    flops = CostTables(space).flops(genomes)
    accuracy = 0.9 + 0.09 * (flops - flops.min()) / np.ptp(flops)
    predictor = AccuracyPredictor.fit(space, genomes, accuracy, None, rng, "ridge")
    torch.set_num_threads(1)  # its threads would only get into each other's way
    generator = torch.Generator().manual_seed(0)
    supernet = supernet_class(space.family)(space)
    initialise(supernet, generator)
    side = space.resolutions[-1]

    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, space.in_channels, side, side), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.arange(count) % space.classes)

    bundle = write_bundle(
        directory / "untrained",
        name="untrained digits",
        space=space,
        supernet=supernet,
        classes=tuple(map(str, range(space.classes))),
        normalization=Normalization((0.5,) * space.in_channels, (0.25,) * space.in_channels),
        calibration=images(64),
        holdout=images(50),
        views=Views(),
        predictor=predictor.to_bytes(),
        report={"corners": {}},
        provenance={"dataset": "noise", "seed": 0},
    )
    return bundle.path


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a bucket on an S3 server that runs here. The environment holds what its clients need."""
    with s3_server() as address:
        yield address


# The command line.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The `supple` command in this process."""
    from service.cli.main import main

    def command(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["supple", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return command


# A service.


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, data_directory=tmp_path / "data")


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings)
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def context(client: TestClient) -> Context:
    context: Context = client.app.state.context  # type: ignore[attr-defined]
    return context


@pytest.fixture
def supernet(context: Context, bundle_path: Path) -> str:
    """The id of a registered supernet."""
    with context.database.writing() as session:
        return register_supernet(session, context.store, bundle_path).id


@pytest.fixture(scope="session")
def tables() -> CostTables:
    return CostTables(preset("mbv3-digits"))


@pytest.fixture(scope="session")
def measurements(tables: CostTables) -> dict[str, Any]:
    """What a probe would post of a device that does 100 million multiply-adds a millisecond, give or take 1 %."""
    return make_measurements(tables, np.random.default_rng(1))


@pytest.fixture(scope="session")
def latency_model(tables: CostTables, measurements: dict[str, Any]) -> LatencyModel:
    """Fitted once, because that takes as long as the rest of a test."""
    return fit(tables, MeasurementsIn(**measurements))


@pytest.fixture
def device(context: Context, supernet: str, measurements: dict[str, Any], latency_model: LatencyModel) -> str:
    """The name of a registered and measured device."""
    return add_device(context, "board", measurements, latency_model, HOST)
