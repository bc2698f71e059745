"""What the statements share: the table, the rows they return, and how rows are picked and locked."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Row,
    Table,
    and_,
    literal_column,
    null,
    select,
    tuple_,
)

from app.database import Connection, now
from app.tasks.models import TaskRecord

AnyRow = Row[*tuple[Any, ...]]
Pair = tuple[UUID, int]
"""A task's id and the fence of one claim on it."""

tasks = cast(Table, TaskRecord.__table__)
t = tasks.c

MAX_CRASHES = 3
WORKER_LOST = {
    "type": "worker_lost",
    "message": f"The worker was lost while running this task, {MAX_CRASHES} times.",
}
CLOCK_SLACK_SECONDS = 2.0
"""A message counts as lost when one sent this much later has arrived."""

# Literals, not parameters: only so can a prepared statement use an index over some of the rows.
PENDING = t.status == literal_column("'pending'")
RUNNING = t.status == literal_column("'running'")


@dataclass(frozen=True)
class Claim:
    """A task that this process has claimed and must run."""

    id: UUID
    fence: int
    name: str
    queue: str
    owner: str
    payload: Any
    attempt: int
    max_attempts: int
    crashes: int
    correlation_id: str | None
    traceparent: str | None


@dataclass(frozen=True)
class Owed:
    """A record for which a message is owed."""

    id: UUID
    queue: str
    sent_at: datetime


@dataclass(frozen=True)
class Ended:
    """A record that recovery has moved on, and to where."""

    id: UUID
    name: str
    status: str
    worker: str | None
    crashes: int
    payload: Any
    owner: str
    correlation_id: str | None
    traceparent: str | None


def pick(condition: ColumnElement[bool], limit: int | None = None) -> CTE:
    """The ids to change, locked in order. A plain IN (SELECT ... LIMIT) may be evaluated again and pick other rows.

    The lock is the weaker one that lets rows elsewhere refer to the record meanwhile.
    """
    query = select(t.id).where(condition).order_by(t.id).limit(limit)
    return query.with_for_update(skip_locked=True, key_share=True).cte("picked").prefix_with("MATERIALIZED")


def is_held(pairs: Collection[Pair]) -> ColumnElement[bool]:
    return and_(RUNNING, tuple_(t.id, t.fence).in_(list(pairs)))


def ended() -> dict[str, Any]:
    return {"finished_at": now(), "lease_expires_at": null()}


async def changed(connection: Connection, statement: Any) -> bool:
    return (await connection.execute(statement)).first() is not None
