"""Measurements lie in the artifact store alone; nothing read the two tables that held a copy.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("network_measurements")
    op.drop_table("block_measurements")


def downgrade() -> None:
    """Create both tables again, empty: the measurements stay in the artifact store."""
    op.create_table(
        "block_measurements",
        sa.Column("latency_model_id", sa.String(length=32), nullable=False),
        sa.Column("block_key", sa.String(length=16), nullable=False),
        sa.Column("measured_ms", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["latency_model_id"],
            ["latency_models.id"],
            name=op.f("fk_block_measurements_latency_model_id_latency_models"),
        ),
        sa.PrimaryKeyConstraint("latency_model_id", "block_key", name=op.f("pk_block_measurements")),
    )
    op.create_table(
        "network_measurements",
        sa.Column("latency_model_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("measured_ms", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["latency_model_id"],
            ["latency_models.id"],
            name=op.f("fk_network_measurements_latency_model_id_latency_models"),
        ),
        sa.PrimaryKeyConstraint("latency_model_id", "number", name=op.f("pk_network_measurements")),
    )
