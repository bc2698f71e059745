"""Waiting for tasks to change: one query for all clients that wait in this process."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select

from app.database import Database
from app.tasks.models import TaskRecord, TaskStatus
from app.telemetry import get_logger

LOOK_SECONDS = 0.1

State = tuple[TaskStatus, int]
"""A task's status and version."""

logger = get_logger(__name__)


class Watcher:
    """Lets clients wait without holding a connection each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, list[tuple[Callable[[State], bool], asyncio.Event]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, task_id: UUID, until: Callable[[State], bool], seconds: float) -> None:
        """Return when the task's state fulfils `until`, when it is gone, or after so many seconds."""
        seen = asyncio.Event()
        entry = (until, seen)
        self._waiting.setdefault(task_id, []).append(entry)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                await seen.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting[task_id].remove(entry)
            if not self._waiting[task_id]:
                del self._waiting[task_id]

    async def close(self) -> None:
        """Let everybody go on at once."""
        for entries in self._waiting.values():
            for _, seen in entries:
                seen.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._waiting:
            try:
                states = await self._read(list(self._waiting))
            except Exception as error:  # clients are answered at the end of their wait, or by its error
                logger.warning("cannot look for changes", error=type(error).__name__)
            else:
                for task_id, entries in self._waiting.items():
                    for until, seen in entries:
                        if task_id not in states or until(states[task_id]):
                            seen.set()
            await asyncio.sleep(LOOK_SECONDS)

    async def _read(self, ids: list[UUID]) -> dict[UUID, State]:
        query = select(TaskRecord.id, TaskRecord.status, TaskRecord.version).where(TaskRecord.id.in_(ids))
        async with self._database.read() as session:
            return {row.id: (TaskStatus(row.status), row.version) for row in await session.execute(query)}
