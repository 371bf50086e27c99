"""Requests to a service that holds much against one that holds little: `python -m benchmarks.scale BUNDLE`.

Two services in this process, one with 100 searches and 10,000 candidates, one with 10,000 and 1,000,000, answer the
same requests in turns. BUNDLE: a bundle whose space has that many subnets. `--postgres URL` uses two empty databases,
`URL_small` and `URL_large`, which the script creates and drops; otherwise SQLite files in a temporary folder.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg
from fastapi.testclient import TestClient
from sqlalchemy import insert, make_url, select
from sqlalchemy.orm import Session

from service.app import create_app
from service.context import Context
from service.searches.question import make_question
from service.searches.record import add_candidates
from service.searches.schemas import SearchIn
from service.settings import Settings
from service.storage.tables import Candidate, Search, SearchCandidate, new_id
from service.supernets.register import register_supernet
from service.upgrade import upgrade
from supernet.space import Genomes

SIZES = {"small": (100, 10_000), "large": (10_000, 1_000_000)}
MEMBERS = 100  # candidates of a stored search
CHUNK = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--postgres", metavar="URL", help="a server's address, with the name of a database to be")
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--sizes", choices=("whole", "tenth"), default="whole", help="a tenth, to try the script")
    options = parser.parse_args()
    scale = 1 if options.sizes == "whole" else 10
    with (
        tempfile.TemporaryDirectory() as folder,
        database(options.postgres, "small") as small,
        database(options.postgres, "large") as large,
    ):
        urls = {"small": small, "large": large}
        clients = {}
        for name, (searches, candidates) in SIZES.items():
            settings = Settings.model_validate({"data_directory": Path(folder) / name, "rate_limit": "", **urls[name]})
            clients[name] = filled(settings, options.bundle, searches // scale, candidates // scale)
        compare(clients, options.requests)


def filled(settings: Settings, bundle: Path, searches: int, candidates: int) -> TestClient:
    """A service that holds this many searches and candidates."""
    started = time.perf_counter()
    upgrade(settings.database)
    app = create_app(settings)
    context: Context = app.state.context
    with context.database.writing() as session:
        supernet = register_supernet(session, context.store, bundle)
        tables, name = context.tables(supernet), supernet.id
    client = TestClient(app, base_url="http://localhost")
    first = client.post("/v1/searches", json={"max_flops": float(tables.flops_cost.ceiling)})
    assert first.status_code == 201, first.text
    for genomes in distinct(tables.space, candidates):
        with context.database.writing() as session:
            question = make_question(session, SearchIn.model_validate({"supernet": name}))
            add_candidates(session, context, question, genomes)
    with context.database.writing() as session:
        add_searches(session, first.json()["id"], searches)
    seconds = time.perf_counter() - started
    print(f"{searches:,} searches and {candidates:,} candidates stored in {seconds:.0f} s", flush=True)
    return client


def distinct(space: Any, count: int) -> Iterator[Genomes]:
    """`count` different genomes, in chunks."""
    rng = np.random.default_rng(0)
    seen: set[bytes] = set()
    while len(seen) < count:
        drawn = {genome.tobytes(): genome for genome in space.canonical(space.sample(rng, CHUNK))}
        new = [key for key in drawn if key not in seen][: count - len(seen)]
        seen.update(new)
        if new:
            yield np.stack([drawn[key] for key in new])


def add_searches(session: Session, template_id: str, count: int) -> None:
    """Copies of a search, each with other candidates on its front."""
    template = session.get_one(Search, template_id)
    columns = {column.key: getattr(template, column.key) for column in Search.__mapper__.column_attrs}
    ids = session.scalars(select(Candidate.id).order_by(Candidate.id)).all()
    for start in range(0, count, 100):
        rows, members = [], []
        for number in range(start, min(start + 100, count)):
            row = {**columns, "id": new_id(), "question": f"{number:064x}", "idempotency_key": None}
            rows.append(row)
            first = number * MEMBERS % len(ids)
            members += [
                {"search_id": row["id"], "candidate_id": name, "place": place, "on_front": True}
                for place, name in enumerate(ids[first : first + MEMBERS])
            ]
        session.execute(insert(Search), rows)
        session.execute(insert(SearchCandidate), members)


def compare(clients: dict[str, TestClient], requests: int) -> None:
    """Send the same requests to both services in turns and print the medians."""
    supernets = {name: client.get("/v1/supernets").json()["items"][0]["id"] for name, client in clients.items()}
    pages = {name: client.get("/v1/searches", params={"limit": 5}).json() for name, client in clients.items()}
    floor = clients["small"].post("/v1/searches", json={"max_flops": 1}).json()["floors"]["flops"]
    rng = np.random.default_rng(1)

    def search(name: str, number: int) -> Any:
        limit = float(floor * ratios[number])
        return clients[name].post("/v1/searches", json={"max_flops": limit, "seed": number})

    ratios = rng.uniform(1.2, 6, requests + 1)
    kinds: dict[str, Callable[[str, int], Any]] = {
        "the first page of searches": lambda name, _: clients[name].get("/v1/searches", params={"limit": 5}),
        "the second page of searches": lambda name, _: clients[name].get(
            "/v1/searches", params={"limit": 5, "cursor": pages[name]["next"]}
        ),
        "a search's answer": lambda name, n: clients[name].get(f"/v1/searches/{pages[name]['items'][n % 5]['id']}"),
        "a search": search,
        "the same search again, from storage": search,
        "the front against FLOPs, unchanged": lambda name, _: clients[name].get(
            "/v1/fronts", params={"supernet": supernets[name], "x": "flops"}
        ),
    }
    print(f"{'':<38}{'small':>10}{'large':>10}{'ratio':>8}   medians of {requests} requests, ms")
    for kind, send in kinds.items():
        times: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(requests + 1):
            for name in clients:
                started = time.perf_counter()
                response = send(name, number)
                times[name].append(1e3 * (time.perf_counter() - started))
                assert response.status_code in (200, 201), response.text
        first = ", ".join(f"{name} {values[0]:.0f}" for name, values in times.items())
        small, large = (median(times[name][1:]) for name in ("small", "large"))
        print(f"{kind:<38}{small:10.2f}{large:10.2f}{large / small:8.2f}   the first: {first}", flush=True)


@contextmanager
def database(server: str | None, name: str) -> Iterator[dict[str, str]]:
    """The setting of an empty database: none for SQLite in the data directory."""
    if server is None:
        yield {}
        return
    url = make_url(server)
    created = f"{url.database}_{name}"
    with psycopg.connect(url.set(database="postgres").render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{created}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{created}"')
        try:
            yield {"database_url": url.set(database=created).render_as_string(hide_password=False)}
        finally:
            admin.execute(f'DROP DATABASE "{created}" WITH (FORCE)')


if __name__ == "__main__":
    main()
