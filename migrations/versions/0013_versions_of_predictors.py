"""Accuracy predictors that are fitted again with verified candidates.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "predictor_versions",
        sa.Column("supernet_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.Column("pairs", sa.String(length=64), nullable=False),
        sa.Column("card", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name="fk_predictor_versions_supernet_id_supernets"),
        sa.PrimaryKeyConstraint("supernet_id", "version", name="pk_predictor_versions"),
    )
    op.create_table(
        "predictor_refits",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("supernet_id", sa.String(length=32), nullable=False),
        sa.Column("old_version", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("old_pairs", sa.Integer(), nullable=True),
        sa.Column("new_pairs", sa.Integer(), nullable=True),
        sa.Column("old_errors", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("new_errors", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("new_version", sa.String(length=32), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name="fk_predictor_refits_supernet_id_supernets"),
        sa.PrimaryKeyConstraint("id", name="pk_predictor_refits"),
    )
    op.create_index("ix_predictor_refits_supernet_id", "predictor_refits", ["supernet_id"])


def downgrade() -> None:
    op.drop_index("ix_predictor_refits_supernet_id", "predictor_refits")
    op.drop_table("predictor_refits")
    op.drop_table("predictor_versions")
