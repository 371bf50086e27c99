"""Searches for a front, and how an answer was found.

Revision ID: 0003
Revises: 0002
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

searches = sa.table("searches", sa.column("id", sa.String()), sa.column("request", sa.JSON()))


def upgrade() -> None:
    op.add_column("searches", sa.Column("findings", sa.JSON(none_as_null=True), nullable=True))
    _change_requests(lambda request: request | {"objectives": []})


def downgrade() -> None:
    _change_requests(lambda request: {name: value for name, value in request.items() if name != "objectives"})
    op.drop_column("searches", "findings")


def _change_requests(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Give stored requests the fields of their canonical form."""
    connection = op.get_bind()
    for row in connection.execute(sa.select(searches)).all():
        changed = searches.update().where(searches.c.id == row.id).values(request=change(row.request))
        connection.execute(changed)
