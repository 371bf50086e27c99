"""Predictions of accuracies are numbered in the order in which they are committed.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

UNIQUE = "uq_accuracy_predictions_predictor_version_number"


def upgrade() -> None:
    op.add_column("accuracy_predictions", sa.Column("number", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE accuracy_predictions SET number = numbered.number FROM (SELECT candidate_id, predictor_version, "
        "row_number() OVER (PARTITION BY predictor_version ORDER BY candidate_id) AS number FROM accuracy_predictions) "
        "AS numbered WHERE accuracy_predictions.candidate_id = numbered.candidate_id "
        "AND accuracy_predictions.predictor_version = numbered.predictor_version"
    )
    with op.batch_alter_table("accuracy_predictions") as table:
        table.alter_column("number", existing_type=sa.BigInteger(), nullable=False)
        table.create_unique_constraint(UNIQUE, ["predictor_version", "number"])


def downgrade() -> None:
    with op.batch_alter_table("accuracy_predictions") as table:
        table.drop_constraint(UNIQUE, type_="unique")
        table.drop_column("number")
