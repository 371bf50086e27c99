"""Jobs that probes claim, and latency models fitted anew.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("devices", sa.Column("seen_host", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "measurement_jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("search_id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("space_hash", sa.String(length=64), nullable=False),
        sa.Column("expected_ms", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=True),
        sa.Column("probe", sa.String(length=200), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("result", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_measurement_jobs_device_devices"),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name="fk_measurement_jobs_search_id_searches"),
        sa.PrimaryKeyConstraint("id", name="pk_measurement_jobs"),
        sa.UniqueConstraint(
            "search_id", "device", "number", "turn", name="uq_measurement_jobs_search_id_device_number_turn"
        ),
    )
    op.create_index("ix_measurement_jobs_device", "measurement_jobs", ["device"])
    op.create_table(
        "latency_refits",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("space_hash", sa.String(length=64), nullable=False),
        sa.Column("old_model", sa.String(length=32), nullable=False),
        sa.Column("new_model", sa.String(length=32), nullable=True),
        sa.Column("networks", sa.Integer(), nullable=False),
        sa.Column("old_error", sa.Double(), nullable=False),
        sa.Column("new_error", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_latency_refits_device_devices"),
        sa.ForeignKeyConstraint(
            ["old_model"], ["latency_models.id"], name="fk_latency_refits_old_model_latency_models"
        ),
        sa.ForeignKeyConstraint(
            ["new_model"], ["latency_models.id"], name="fk_latency_refits_new_model_latency_models"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_latency_refits"),
    )
    op.create_index("ix_latency_refits_device", "latency_refits", ["device"])


def downgrade() -> None:
    op.drop_index("ix_latency_refits_device", "latency_refits")
    op.drop_table("latency_refits")
    op.drop_index("ix_measurement_jobs_device", "measurement_jobs")
    op.drop_table("measurement_jobs")
    op.drop_column("devices", "seen_host")
    op.drop_column("devices", "seen_at")
