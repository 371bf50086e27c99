"""Searches remember: which question each answered, and what it started from.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("warm_starts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("searches", sa.Column("question", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_searches_question"), "searches", ["question"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_searches_question"), table_name="searches")
    op.drop_column("searches", "question")
    op.drop_column("searches", "warm_starts")
