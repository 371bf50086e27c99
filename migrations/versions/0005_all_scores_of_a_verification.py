"""Verifications hold the top-5 accuracy and the macro F1, too. They are null in the rows that exist.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("verifications", sa.Column("top5", sa.Double(), nullable=True))
    op.add_column("verifications", sa.Column("f1_macro", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("verifications", "f1_macro")
    op.drop_column("verifications", "top5")
