"""Back-pressure: while too much waits, nothing more is accepted."""

import time

from app.database import Database
from app.tasks import store
from app.tasks.definition import Registry

CACHE_SECONDS = 1.0


class TooMuchPending(Exception):
    """More tasks wait than TASK_MAX_PENDING allows."""


class Backlog:
    """Knows, to the second, whether more than `limit` tasks wait."""

    def __init__(self, database: Database, registry: Registry, limit: int) -> None:
        self._database = database
        self._registry = registry
        self._limit = limit
        self._full = False
        self._counted_at = float("-inf")

    async def check(self) -> None:
        """Raise TooMuchPending while too much waits. Tasks for later, and those no worker knows, do not count."""
        if time.monotonic() - self._counted_at > CACHE_SECONDS:
            self._counted_at = time.monotonic()
            async with self._database.read() as session:
                known = [task.name for task in self._registry]
                self._full = await store.count_pending(session, known, self._limit) >= self._limit
        if self._full:
            raise TooMuchPending("Too many tasks are waiting; try again in a while.")
