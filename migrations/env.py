"""How Alembic runs: on the service's engine, in one transaction, one process at a time."""

from logging.config import fileConfig
from typing import Literal

from alembic import context
from sqlalchemy import text

from migrations.tables import JOB_ENGINE_TABLES
from service.settings import Settings
from service.storage.database import make_engine
from service.storage.tables import Base, UtcDateTime

MIGRATION_LOCK = 0x5C0BB1E  # key of an advisory lock; any constant will do


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Whether autogenerate compares this object."""
    return kind != "table" or name not in JOB_ENGINE_TABLES


def rendered(kind: str, item: object, autogen_context: object) -> str | Literal[False]:
    """Write `UtcDateTime` as its database type, so that old migrations do not depend on the class."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run() -> None:
    """Run the migrations, or compare the tables with the models."""
    if context.is_offline_mode():
        raise SystemExit("migrations run against a database; set SUPPLE_DATABASE_URL and leave out --sql")
    if context.config.config_file_name:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    engine = context.config.attributes.get("engine") or make_engine(Settings().database)
    with engine.begin() as connection:  # on SQLite this takes the write lock
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=is_ours,
            render_item=rendered,
            render_as_batch=engine.dialect.name == "sqlite",
        )
        context.run_migrations()


run()
