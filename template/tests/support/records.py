"""Task records, written and read by the tests without the code under test."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update

from app.database import Database, now, plus
from app.tasks import NewTask, Submitter, Task, TaskRecord

LONG_AGO = plus(now(), -3600)
LATER = plus(now(), 3600)


async def submit_all(submitter: Submitter, task: Task[Any, Any], payloads: Iterable[Any]) -> list[UUID]:
    """Submit a task with each of the payloads; return their ids."""
    return [(await submitter.submit(NewTask.of(task, payload))).id for payload in payloads]


async def read(database: Database, task_id: UUID | str) -> TaskRecord:
    """Return a record as it is now."""
    async with database.read() as session:
        return await session.get_one(TaskRecord, UUID(str(task_id)))


async def read_all(database: Database) -> list[TaskRecord]:
    """Return all records, oldest first."""
    async with database.read() as session:
        return list(await session.scalars(select(TaskRecord).order_by(TaskRecord.id)))


async def change(database: Database, task_id: UUID, **values: Any) -> None:
    """Change a record behind the service's back."""
    async with database.begin() as connection:
        await connection.execute(update(TaskRecord).where(TaskRecord.id == task_id).values(values))


async def effects(database: Database) -> list[str]:
    """Return what sample tasks have written, in order."""
    async with database.read() as session:
        return list(await session.scalars(text("SELECT name FROM task_schedules ORDER BY name")))


async def seconds_until_run(database: Database, task_id: UUID) -> float:
    """Return how long the database's clock lets a task wait."""
    async with database.read() as session:
        run_at, time = (await session.execute(select(TaskRecord.run_at, now()).where(TaskRecord.id == task_id))).one()
        return float((run_at - time).total_seconds())


async def count(database: Database) -> int:
    """Return how many records there are."""
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(TaskRecord)) or 0
