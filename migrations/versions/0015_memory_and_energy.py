"""Predictions of the memory and the energy of candidates on devices, beside those of latency.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("latency_predictions", sa.Column("beside", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("latency_predictions") as table:
        table.drop_column("beside")
