"""The first tables.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
        sa.UniqueConstraint("name", name=op.f("uq_api_keys_name")),
    )
    op.create_table(
        "devices",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("runtime", sa.String(length=200), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_devices")),
    )
    op.create_table(
        "supernets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("bundle_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("space_hash", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("predictor_version", sa.String(length=32), nullable=True),
        sa.Column("predictor_card", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_supernets")),
        sa.UniqueConstraint("bundle_hash", name=op.f("uq_supernets_bundle_hash")),
    )
    op.create_index(op.f("ix_supernets_space_hash"), "supernets", ["space_hash"], unique=False)
    op.create_table(
        "candidates",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("supernet_id", sa.String(length=32), nullable=False),
        sa.Column("architecture_id", sa.String(length=32), nullable=False),
        sa.Column("architecture", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("genome", sa.LargeBinary(), nullable=False),
        sa.Column("resolution", sa.Integer(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=False),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name=op.f("fk_candidates_supernet_id_supernets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidates")),
        sa.UniqueConstraint("supernet_id", "architecture_id", name=op.f("uq_candidates_supernet_id_architecture_id")),
    )
    op.create_table(
        "latency_models",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("space_hash", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("model", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("card", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("host", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("reference_ms", sa.Double(), nullable=True),
        sa.Column("measurements", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name=op.f("fk_latency_models_device_devices")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_latency_models")),
        sa.UniqueConstraint(
            "device", "space_hash", "version", name=op.f("uq_latency_models_device_space_hash_version")
        ),
    )
    op.create_table(
        "accuracy_predictions",
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("predictor_version", sa.String(length=32), nullable=False),
        sa.Column("predicted_accuracy", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_accuracy_predictions_candidate_id_candidates")
        ),
        sa.PrimaryKeyConstraint("candidate_id", "predictor_version", name=op.f("pk_accuracy_predictions")),
    )
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
        "exports",
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=8), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("parity", sa.Double(), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_exports_candidate_id_candidates")),
        sa.PrimaryKeyConstraint("candidate_id", "precision", name=op.f("pk_exports")),
    )
    op.create_table(
        "latency_predictions",
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("latency_model_id", sa.String(length=32), nullable=False),
        sa.Column("predicted_latency_ms", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_latency_predictions_candidate_id_candidates")
        ),
        sa.ForeignKeyConstraint(
            ["latency_model_id"],
            ["latency_models.id"],
            name=op.f("fk_latency_predictions_latency_model_id_latency_models"),
        ),
        sa.PrimaryKeyConstraint("candidate_id", "latency_model_id", name=op.f("pk_latency_predictions")),
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
    op.create_table(
        "searches",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("supernet_id", sa.String(length=32), nullable=False),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("predictor_version", sa.String(length=32), nullable=False),
        sa.Column("latency_models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("warm_start", sa.String(length=64), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("best_candidate_id", sa.String(length=32), nullable=True),
        sa.Column("limits_hold", sa.String(length=16), nullable=True),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("evaluations", sa.Integer(), nullable=True),
        sa.Column("elapsed_ms", sa.Double(), nullable=True),
        sa.Column("evaluated", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["best_candidate_id"], ["candidates.id"], name=op.f("fk_searches_best_candidate_id_candidates")
        ),
        sa.ForeignKeyConstraint(["supernet_id"], ["supernets.id"], name=op.f("fk_searches_supernet_id_supernets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_searches_idempotency_key")),
    )
    op.create_index(op.f("ix_searches_supernet_id"), "searches", ["supernet_id"], unique=False)
    op.create_table(
        "verifications",
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("verified_accuracy", sa.Double(), nullable=True),
        sa.Column("log_likelihood", sa.Double(), nullable=True),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_verifications_candidate_id_candidates")
        ),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_verifications")),
    )
    op.create_table(
        "search_candidates",
        sa.Column("search_id", sa.String(length=32), nullable=False),
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("on_front", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_search_candidates_candidate_id_candidates")
        ),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_search_candidates_search_id_searches")),
        sa.PrimaryKeyConstraint("search_id", "candidate_id", name=op.f("pk_search_candidates")),
    )
    op.create_index(op.f("ix_search_candidates_candidate_id"), "search_candidates", ["candidate_id"], unique=False)
    op.create_table(
        "search_states",
        sa.Column("search_id", sa.String(length=32), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_search_states_search_id_searches")),
        sa.PrimaryKeyConstraint("search_id", name=op.f("pk_search_states")),
    )
    op.create_table(
        "latency_measurements",
        sa.Column("search_id", sa.String(length=32), nullable=False),
        sa.Column("candidate_id", sa.String(length=32), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("measured_latency_ms", sa.Double(), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name=op.f("fk_latency_measurements_device_devices")),
        sa.ForeignKeyConstraint(
            ["search_id", "candidate_id"],
            ["search_candidates.search_id", "search_candidates.candidate_id"],
            name=op.f("fk_latency_measurements_search_id_candidate_id_search_candidates"),
        ),
        sa.PrimaryKeyConstraint("search_id", "candidate_id", "device", name=op.f("pk_latency_measurements")),
    )
    op.create_index(
        op.f("ix_latency_measurements_candidate_id"), "latency_measurements", ["candidate_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_latency_measurements_candidate_id"), table_name="latency_measurements")
    op.drop_table("latency_measurements")
    op.drop_table("search_states")
    op.drop_index(op.f("ix_search_candidates_candidate_id"), table_name="search_candidates")
    op.drop_table("search_candidates")
    op.drop_table("verifications")
    op.drop_index(op.f("ix_searches_supernet_id"), table_name="searches")
    op.drop_table("searches")
    op.drop_table("network_measurements")
    op.drop_table("latency_predictions")
    op.drop_table("exports")
    op.drop_table("block_measurements")
    op.drop_table("accuracy_predictions")
    op.drop_table("latency_models")
    op.drop_table("candidates")
    op.drop_index(op.f("ix_supernets_space_hash"), table_name="supernets")
    op.drop_table("supernets")
    op.drop_table("devices")
    op.drop_table("api_keys")
