"""A worker for tests, and what its jobs leave behind."""

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.context import Context


class Steps:
    """Steps as a worker runs them: each once, its result remembered. `die_at` is where the worker is killed."""

    def __init__(self) -> None:
        self.done: dict[str, Any] = {}
        self.ran: list[str] = []
        self.die_at = ""

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        if name not in self.done:
            if name.startswith(self.die_at or "nothing"):
                raise SystemExit
            self.ran.append(name)
            self.done[name] = function()
        return self.done[name]


def shown(client: TestClient, search_id: str) -> Any:
    return client.get(f"/v1/searches/{search_id}").json()


def count(context: Context, table: Any) -> int:
    with context.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
