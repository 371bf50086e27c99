"""Networks that were trained alone, and where the training images of a supernet lie.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("supernets", sa.Column("images", sa.Text(), nullable=True))
    op.create_table(
        "fine_tunings",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("card", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("onnx", sa.String(length=64), nullable=True),
        sa.Column("weights", sa.String(length=64), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name="fk_fine_tunings_candidate_id_candidates"),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tunings"),
    )
    op.create_index("ix_fine_tunings_candidate_id", "fine_tunings", ["candidate_id"])


def downgrade() -> None:
    op.drop_index("ix_fine_tunings_candidate_id", "fine_tunings")
    op.drop_table("fine_tunings")
    op.drop_column("supernets", "images")
