"""Statements that end a run: completed, failed, cancelled, to be attempted again, or handed back."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    and_,
    bindparam,
    case,
    literal_column,
    null,
    select,
    tuple_,
    update,
)

from app.database import Connection, now, plus
from app.tasks.store.rows import RUNNING, AnyRow, Pair, changed, ended, is_held, t, tasks


async def settle_completed(connection: Connection, pair: Pair, result: Any) -> bool:
    """End a task with its result. Returns whether the claim still stood; if not, nothing changed."""
    done = bindparam("done", {"fraction": 1.0, "message": ""}, JSON())
    progress = case((t.progress.is_not(null()), done), else_=null())
    return await _settle(
        connection, pair, status="completed", result=result, error=null(), progress=progress, **ended()
    )


async def settle_all_completed(connection: Connection, outcomes: Sequence[tuple[Pair, Any]]) -> set[Pair]:
    """End tasks that wrote nothing with their results. Returns those that ended so, now or by a try before this."""
    here = and_(RUNNING, t.id == bindparam("of_id"), t.fence == bindparam("of_fence"))
    done = bindparam("done", {"fraction": 1.0, "message": ""}, JSON())
    statement = (
        update(tasks)
        .where(here)
        .values(
            status="completed",
            result=bindparam("with_result"),
            error=null(),
            progress=case((t.progress.is_not(null()), done), else_=null()),
            version=t.version + 1,
            **ended(),
        )
    )
    outcomes = sorted(outcomes, key=lambda outcome: outcome[0])  # everybody locks in this order
    parameters = [{"of_id": id_, "of_fence": fence, "with_result": result} for (id_, fence), result in outcomes]
    await connection.execute(statement, parameters)
    completed = t.status == literal_column("'completed'")
    mine = tuple_(t.id, t.fence).in_([pair for pair, _ in outcomes])
    rows = (await connection.execute(select(t.id, t.fence).where(completed, mine))).all()
    return {(row.id, row.fence) for row in rows}


async def settle_cancelled(connection: Connection, pair: Pair) -> bool:
    """End a task because its cancellation was asked for. Returns whether the claim still stood."""
    return await _settle(connection, pair, status="cancelled", **ended())


async def settle_failed(connection: Connection, pair: Pair, error: Mapping[str, str]) -> bool:
    """End a task for good with an error. Returns whether the claim still stood."""
    return await _settle(connection, pair, status="failed", error=error, **ended())


async def settle_retry(connection: Connection, pair: Pair, error: Mapping[str, str], delay: float) -> bool:
    """Let a task be attempted again after so many seconds; a requested cancellation ends it instead."""
    return await _settle(connection, pair, error=error, run_at=plus(now(), delay), **back_to_pending())


async def release(connection: Connection, pair: Pair) -> bool:
    """Hand a task back as if it had not begun: due at once, the attempt not counted."""
    return await _settle(connection, pair, run_at=now(), attempt=t.attempt - 1, **back_to_pending())


async def read(connection: Connection, task_id: UUID) -> AnyRow | None:
    """Return a record's status and fence, to learn what became of a commit whose answer was lost."""
    return (await connection.execute(select(t.status, t.fence).where(t.id == task_id))).one_or_none()


def back_to_pending() -> dict[str, Any]:
    """Pending again and due for sending; cancelled if that was asked for meanwhile."""
    cancelled = t.cancel_requested_at.is_not(None)
    return {
        "status": case((cancelled, "cancelled"), else_="pending"),
        "finished_at": case((cancelled, now()), else_=null()),
        "lease_expires_at": null(),
        "sent_at": null(),
    }


async def _settle(connection: Connection, pair: Pair, **values: Any) -> bool:
    statement = update(tasks).where(is_held([pair])).values(version=t.version + 1, **values)
    return await changed(connection, statement.returning(t.id))
