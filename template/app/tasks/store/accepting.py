"""Statements that clients ask for: accepting tasks, cancelling them, having them run again."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    case,
    func,
    null,
    or_,
    select,
    update,
)

from app.database import Connection, insert, now
from app.tasks.store.rows import PENDING, RUNNING, changed, pick, t, tasks


async def add(connection: Connection, row: Mapping[str, Any]) -> datetime | None:
    """Insert a new record; without a `run_at` it counts as sent now.

    Returns the time of creation, or None if its id is there already, from a try whose answer was lost, or its
    idempotency key. A key that an open transaction has inserted makes this wait for that transaction's end.
    """
    created = now()
    later = row["run_at"] is not None
    times = {
        "created_at": created,
        "run_at": row["run_at"] if later else created,
        "sent_at": null() if later else created,
    }
    statement = insert(tasks).values({**row, **times}).on_conflict_do_nothing()
    return cast(datetime | None, await connection.scalar(statement.returning(t.created_at)))


async def add_all(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[UUID, datetime]:
    """Insert records that run at once and have no idempotency key; ids that are there already stay as they are.

    Returns the times of creation of those that are new, by id.
    """
    times = dict.fromkeys(("created_at", "run_at", "sent_at"), now())
    statement = insert(tasks).values(times).on_conflict_do_nothing().returning(t.id, t.created_at)
    parameters = [{name: value for name, value in row.items() if name != "run_at"} for row in rows]
    result = await connection.execute(statement, parameters)
    return {row.id: row.created_at for row in result}


async def count_pending(connection: Connection, known: Collection[str], limit: int) -> int:
    """Count the tasks that wait for a worker, up to a limit: due, and with a name that workers know."""
    waiting = select(t.id).where(PENDING, t.run_at <= now(), t.name.in_(known)).limit(limit).subquery()
    return int(await connection.scalar(select(func.count()).select_from(waiting)) or 0)


async def mark_unsent(connection: Connection, ids: Sequence[UUID], sent_at: datetime) -> None:
    """Note that the message sent at that time was not sent after all: one is owed at once."""
    mine = pick(PENDING & t.id.in_(ids) & (t.sent_at == sent_at))
    await connection.execute(update(tasks).where(t.id == mine.c.id, PENDING).values(sent_at=null()))


async def request_cancel(connection: Connection, task_id: UUID, owner: str) -> bool:
    """Cancel a pending task, or ask the worker of a running one to stop. Returns False if it has ended."""
    waiting = t.status == "pending"
    statement = (
        update(tasks)
        .where(t.id == task_id, t.owner == owner, or_(PENDING, RUNNING))
        .values(
            status=case((waiting, "cancelled"), else_=t.status),
            finished_at=case((waiting, now()), else_=null()),
            cancel_requested_at=func.coalesce(t.cancel_requested_at, now()),
            version=t.version + 1,
        )
    )
    return await changed(connection, statement.returning(t.id))


async def run_again(connection: Connection, task_id: UUID, owner: str) -> bool:
    """Let a failed or cancelled task begin anew; the fence goes on counting. Returns False if it is neither."""
    cleared = ("cancel_requested_at", "error", "result", "progress", "started_at", "finished_at", "sent_at")
    statement = (
        update(tasks)
        .where(t.id == task_id, t.owner == owner, t.status.in_(["failed", "cancelled"]))
        .values(
            status="pending",
            attempt=0,
            crashes=0,
            run_at=now(),
            version=t.version + 1,
            **dict.fromkeys(cleared, null()),
        )
    )
    return await changed(connection, statement.returning(t.id))
