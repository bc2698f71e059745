"""Statements of recovery: taking over from dead workers, finding what is to be sent, deleting what is old."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    and_,
    bindparam,
    case,
    delete,
    literal,
    null,
    or_,
    select,
    update,
)

from app.database import Connection, now, plus
from app.tasks.deliveries import delivered_to
from app.tasks.store.rows import (
    CLOCK_SLACK_SECONDS,
    MAX_CRASHES,
    PENDING,
    RUNNING,
    WORKER_LOST,
    Ended,
    Owed,
    pick,
    t,
    tasks,
)


async def reclaim(connection: Connection, *, known: Collection[str], limit: int) -> list[Ended]:
    """Take tasks from workers whose lease has run out: pending again, failed after too many crashes, or cancelled.

    Only a worker that knows a task fails it, since that may have to submit another in the same transaction.
    """
    expired = RUNNING & (t.lease_expires_at < now())
    picked = pick(expired, limit)
    cancelled = t.cancel_requested_at.is_not(None)
    crashed_out = and_(t.crashes + 1 >= MAX_CRASHES, t.name.in_(known), ~cancelled)
    final = or_(cancelled, crashed_out)
    statement = (
        update(tasks)
        .where(t.id == picked.c.id, expired)
        .values(
            status=case((cancelled, "cancelled"), (crashed_out, "failed"), else_="pending"),
            error=case((crashed_out, bindparam("lost", WORKER_LOST, JSON())), else_=t.error),
            finished_at=case((final, now()), else_=null()),
            attempt=case((final, t.attempt), else_=t.attempt - 1),
            crashes=t.crashes + 1,
            lease_expires_at=null(),
            sent_at=null(),
            run_at=now(),
            version=t.version + 1,
        )
        .returning(*(t[name] for name in Ended.__dataclass_fields__))
    )
    return [Ended(**row._mapping) for row in (await connection.execute(statement)).all()]


async def take_unsent(connection: Connection, *, queues: Mapping[str, str], via: str, limit: int) -> list[Owed]:
    """Take the records that are due and for which no message is under way; they count as sent from now on.

    `queues` has the queue of each task that this worker knows; one that was in another before changes over.
    """
    unsent = and_(t.sent_at.is_(None), t.run_at <= now(), t.name.in_(queues))
    return await _take(connection, unsent, via, limit, _queue_now(queues))


async def take_moved(
    connection: Connection, *, queues: Mapping[str, str], via: str, older_than: float, limit: int
) -> list[Owed]:
    """Take the records whose message went to a queue in which their task was before, more than so many seconds ago.

    While a version is rolled out, its workers and those of the version before disagree on the queue. So the time has
    to be long: it is how often a record that waits is sent again then.
    """
    queue = _queue_now(queues)
    moved = and_(t.sent_at < plus(now(), -older_than), t.name.in_(queues), t.queue != queue)
    return await _take(connection, moved, via, limit, queue)


async def take_undelivered(
    connection: Connection, *, known: Collection[str], via: str, queue: str, limit: int
) -> list[Owed]:
    """Take the records of a queue whose message must be lost, since one sent later has arrived."""
    lost_before = plus(delivered_to(via, queue), -CLOCK_SLACK_SECONDS)
    lost = and_(t.queue == queue, t.sent_at.is_not(None), t.sent_at < lost_before, t.name.in_(known))
    return await _take(connection, lost, via, limit)


async def take_elsewhere(connection: Connection, *, known: Collection[str], via: str, limit: int) -> list[Owed]:
    """Take the records whose message went to another engine or broker than this service uses now."""
    elsewhere = and_(t.sent_at.is_not(None), t.sent_via != via, t.name.in_(known))
    return await _take(connection, elsewhere, via, limit)


async def take_again(connection: Connection, ids: Collection[UUID], *, via: str) -> list[Owed]:
    """Take pending records whose message has arrived where there is no room for them."""
    return await _take(connection, t.id.in_(ids), via, len(ids))


async def purge(connection: Connection, *, older_than: float, limit: int) -> int:
    """Delete records that ended more than so many seconds ago. Returns how many."""
    old = t.finished_at.is_not(None) & (t.finished_at < plus(now(), -older_than))
    picked = pick(old, limit)
    statement = delete(tasks).where(t.id.in_(select(picked.c.id)), old).returning(t.id)
    return len((await connection.execute(statement)).all())


def _queue_now(queues: Mapping[str, str]) -> ColumnElement[str]:
    return case(dict(queues), value=t.name, else_=t.queue) if queues else t.queue


async def _take(
    connection: Connection,
    condition: ColumnElement[bool],
    via: str,
    limit: int,
    queue: ColumnElement[str] = t.queue,
) -> list[Owed]:
    picked = pick(PENDING & condition, limit)
    statement = (
        update(tasks)
        .where(t.id == picked.c.id, PENDING, condition)
        .values(sent_at=now(), sent_via=literal(via), queue=queue)
        .returning(t.id, t.queue, t.sent_at)
    )
    return [Owed(**row._mapping) for row in (await connection.execute(statement)).all()]
