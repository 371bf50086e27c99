"""Candidates with their predictions are also packed, thousands to a row, for processes that need all of them.

Revision ID: 0014
Revises: 0013
"""

from itertools import groupby
from struct import pack
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SIZE = 4096  # candidates in a pack


def upgrade() -> None:
    packs = op.create_table(
        "candidate_packs",
        sa.Column("predictor_version", sa.String(length=32), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("supernet_id", sa.String(length=32), nullable=False),
        sa.Column("numbers", sa.LargeBinary(), nullable=False),
        sa.Column("genomes", sa.LargeBinary(), nullable=False),
        sa.Column("accuracy", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name="fk_candidate_packs_supernet_id_supernets"),
        sa.PrimaryKeyConstraint("predictor_version", "last", "supernet_id", name="pk_candidate_packs"),
    )
    connection = op.get_bind()
    for version in connection.scalars(sa.text("SELECT DISTINCT predictor_version FROM accuracy_predictions")).all():
        last = 0
        while len(rows := _unpacked(connection, version, last)) == SIZE:
            last = rows[-1].number
            connection.execute(packs.insert(), _packed(version, last, rows))


def _unpacked(connection: sa.Connection, version: str, after: int) -> list[Any]:
    """The next predictions by a version, with their candidates."""
    query = (
        "SELECT candidates.supernet_id, number, genome, predicted_accuracy FROM accuracy_predictions "
        "JOIN candidates ON candidates.id = candidate_id WHERE predictor_version = :version AND number > :after "
        "ORDER BY number LIMIT :size"
    )
    return list(connection.execute(sa.text(query), {"version": version, "after": after, "size": SIZE}).all())


def _packed(version: str, last: int, rows: list[Any]) -> list[dict[str, Any]]:
    """A pack for each supernet."""
    packed = []
    for supernet_id, group in groupby(sorted(rows, key=lambda row: row.supernet_id), lambda row: row.supernet_id):
        members = list(group)
        packed.append(
            {
                "predictor_version": version,
                "last": last,
                "supernet_id": supernet_id,
                "numbers": pack(f"<{len(members)}q", *(row.number for row in members)),
                "genomes": b"".join(row.genome for row in members),
                "accuracy": pack(f"<{len(members)}d", *(row.predicted_accuracy for row in members)),
            }
        )
    return packed


def downgrade() -> None:
    op.drop_table("candidate_packs")
