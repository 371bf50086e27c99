"""The standard deviations of predicted accuracies; unknown for predictions of before.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accuracy_predictions", sa.Column("predicted_accuracy_std", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("accuracy_predictions", "predicted_accuracy_std")
