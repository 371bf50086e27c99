"""Searches by supernet, device and status, newest first, without reading all of them.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "search_devices",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("search_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_search_devices_device_devices"),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name="fk_search_devices_search_id_searches"),
        sa.PrimaryKeyConstraint("device", "search_id", name="pk_search_devices"),
    )
    json = "json_each(latency_models)" if op.get_bind().dialect.name == "sqlite" else "json_each_text(latency_models)"
    op.execute(
        "INSERT INTO search_devices (device, search_id) "
        f"SELECT model.key, searches.id FROM searches, {json} AS model "
        "WHERE model.key IN (SELECT name FROM devices)"
    )
    op.drop_index("ix_searches_supernet_id", "searches")
    op.create_index("ix_searches_supernet_id_id", "searches", ["supernet_id", "id"])
    op.create_index("ix_searches_status_id", "searches", ["status", "id"])


def downgrade() -> None:
    op.drop_index("ix_searches_status_id", "searches")
    op.drop_index("ix_searches_supernet_id_id", "searches")
    op.create_index("ix_searches_supernet_id", "searches", ["supernet_id"])
    op.drop_table("search_devices")
