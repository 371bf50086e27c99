"""What one process of the service holds: settings, database, store, queue. Made once, passed to whoever needs it."""

from functools import cached_property

from service.db import Database
from service.jobs import Jobs
from service.settings import Settings
from service.store import Store


class Context:
    """Made by `create_app` and by `run_worker`; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.store = Store(settings.store_directory)

    @cached_property
    def jobs(self) -> Jobs:
        """The queue that workers take from."""
        return Jobs(self.database)

    def close(self) -> None:
        """Let go of the database."""
        if "jobs" in self.__dict__:
            self.jobs.close()
        self.database.close()
