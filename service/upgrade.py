"""Migrations: our tables and the job engine's."""

from alembic import command

from service.jobs.queue import upgrade_engine
from service.storage.database import Database, alembic_config


def upgrade(database_url: str) -> None:
    """Bring our tables and the job engine's to the newest version. Safe to call from several processes at once.

    Raises:
        UnavailableError: the database is of a kind that no process of the service could use.
    """
    config = alembic_config()
    database = Database(database_url)
    try:
        database.check_sessions()
        config.attributes["engine"] = database.engine
        command.upgrade(config, "head")
    finally:
        database.close()
    upgrade_engine(database_url)
