"""How far the messages of each queue have been delivered: what tells a message that waits from one that is lost.

A record that waits in a long queue must not be sent again, or one stall floods the broker. So every message carries
its time of sending, workers note the latest that has arrived, and an empty message, a probe, makes sure that there is
a later one.
"""

from datetime import datetime
from typing import cast

from sqlalchemy import ColumnElement, Table, and_, case, exists, literal, literal_column, or_, select

from app.database import Connection, UtcDateTime, insert, now, plus
from app.tasks.models import TaskQueueRecord, TaskRecord

queues = cast(Table, TaskQueueRecord.__table__)
t = cast(Table, TaskRecord.__table__).c


def queue_key(via: str, queue: str) -> str:
    """Return the name under which the deliveries of one queue on one transport are noted."""
    return f"{via}/{queue}"


def delivered_to(via: str, queue: str) -> ColumnElement[datetime]:
    """The latest time of sending among the messages of a queue that have arrived."""
    return select(queues.c.delivered_to).where(queues.c.name == queue_key(via, queue)).scalar_subquery()


async def is_waiting(connection: Connection, queue: str, longer_than: float) -> bool:
    """Tell whether a task has been waiting in a queue for its message for more than so many seconds."""
    pending = t.status == literal_column("'pending'")
    waiting = and_(pending, t.queue == queue, t.sent_at.is_not(None), t.sent_at < plus(now(), -longer_than))
    return bool(await connection.scalar(select(exists().where(waiting))))


async def take_probe(connection: Connection, *, via: str, queue: str, every: float) -> datetime | None:
    """Take the right to send an empty message to a queue; at most one is sent in so many seconds.

    Returns its time of sending, or None if it is too early.
    """
    statement = insert(queues).values(name=queue_key(via, queue), probed_at=now())
    late_enough = or_(queues.c.probed_at.is_(None), queues.c.probed_at < plus(now(), -every))
    statement = statement.on_conflict_do_update(
        index_elements=[queues.c.name], set_={"probed_at": statement.excluded.probed_at}, where=late_enough
    )
    return cast(datetime | None, await connection.scalar(statement.returning(queues.c.probed_at)))


async def record_delivered(connection: Connection, *, via: str, queue: str, sent_at: datetime) -> None:
    """Note that a message sent at that time has arrived; the latest such time counts, but no time to come."""
    sent = literal(sent_at, UtcDateTime())
    possible = case((sent > now(), now()), else_=sent)
    statement = insert(queues).values(name=queue_key(via, queue), delivered_to=possible)
    later = or_(queues.c.delivered_to.is_(None), queues.c.delivered_to < statement.excluded.delivered_to)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[queues.c.name],
            set_={"delivered_to": statement.excluded.delivered_to},
            where=later,
        )
    )
