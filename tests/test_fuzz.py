"""Whatever is sent, no response is a 5xx or has a status, type or body that the OpenAPI document does not declare.

`SUPPLE_FUZZ_CASES=5000 pytest -s tests/test_fuzz.py` sends more requests and prints the responses. SUPPLE_FUZZ_SEED
chooses others.
"""

import os
from collections import Counter
from typing import Any

import pytest
from fastapi.testclient import TestClient

from evolution.predictors.latency import LatencyModel
from service.app import create_app
from service.context import Context
from service.keys.keys import create_key
from service.settings import Settings
from service.supernets.register import register_supernet
from tests.support.fuzz import fuzz
from tests.support.service import HOST, LOCAL, add_device, ask

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("SUPPLE_FUZZ_CASES", "250"))  # without keys, and again with keys
SEED = int(os.environ.get("SUPPLE_FUZZ_SEED", "0"))


@pytest.mark.parametrize("needs_key", [False, True], ids=["open", "keys"])
def test_no_request_breaks_the_service(
    needs_key: bool,
    tmp_path: Any,
    sqlite_template: Any,
    bundle_path: Any,
    measurements: dict[str, Any],
    latency_model: LatencyModel,
) -> None:
    (tmp_path / "supple.db").write_bytes(sqlite_template.read_bytes())
    settings = Settings(data_directory=tmp_path, database_url="", host="0.0.0.0" if needs_key else "127.0.0.1")
    context = Context(settings)
    with context.database.writing() as session:
        supernet = register_supernet(session, context.store, bundle_path)
        key = create_key(session, "fuzz", ["admin"])
    add_device(context, "board", measurements, latency_model, HOST)
    context.close()
    with TestClient(create_app(settings), base_url=LOCAL, raise_server_exceptions=False) as client:
        search = ask(client, {"Authorization": f"Bearer {key}"}, supernet=supernet.id).json()
        known = {"supernet": supernet.id, "supernet_id": supernet.id, "device": "board", "name": "board"}
        known |= {"search_id": search["id"], "candidate_id": search["best"]["id"], "bundle_hash": supernet.bundle_hash}
        counts = fuzz(client, CASES, known, [key, key, "", "unknown"] if needs_key else [""], SEED)
    by_status = Counter({status: 0 for _, status in counts})
    for (operation, status), count in sorted(counts.items()):
        by_status[status] += count
        print(f"{operation:<55} {status} {count:>5}")
    print(dict(by_status))
    assert {200, 201, 404, 422} <= by_status.keys()
    assert (401 in by_status) == needs_key
    assert sum(counts.values()) >= 0.8 * CASES
