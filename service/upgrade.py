"""Migrations: our tables and the job engine's."""

from alembic import command

from service.jobs.queue import upgrade_engine
from service.storage.database import alembic_config, make_engine


def upgrade(database_url: str) -> None:
    """Bring our tables and the job engine's to the newest version. Safe to call from several processes at once."""
    config = alembic_config()
    engine = make_engine(database_url)
    try:
        config.attributes["engine"] = engine
        command.upgrade(config, "head")
    finally:
        engine.dispose()
    upgrade_engine(database_url)
