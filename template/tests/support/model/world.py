"""The surroundings of the engine's model test: commits that fail, a broker that loses messages, a clock to turn."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, Column, ColumnElement, MetaData, Row, Table, Uuid, delete, func, select, update

from app.database import Database, now, plus
from app.queues.base import Message
from app.tasks import Task, TaskContext, TaskRecord, task
from app.tasks.definition import Registry
from app.tasks.deliveries import queues
from app.tasks.schemas import FailedTask, TaskView
from app.tasks.store import tasks

Record = Row[*tuple[Any, ...]]

effects = Table("effects", MetaData(), Column("task_id", Uuid), Column("fence", BigInteger))
"""What the tasks of the model do to the database: one row for every run that took effect."""

TASK_TIMES = ("run_at", "sent_at", "lease_expires_at", "cancel_requested_at", "created_at", "started_at", "finished_at")
QUEUE_TIMES = ("delivered_to", "probed_at")


class Crash(asyncio.CancelledError):
    """The process dies at this point: nothing that it would have done is done."""


class Commit(Enum):
    """What becomes of a commit, as an example's text shows it."""

    DONE = "it is done"
    LOST = "the connection breaks before it"
    UNANSWERED = "it is done, and the connection breaks before the answer"

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Sending(Enum):
    """What becomes of messages that are sent."""

    KEPT = "the broker has them"
    REFUSED = "the broker is down"
    LOST = "the broker takes them and forgets them"
    CRASH = "the process dies before it sends them"

    __repr__ = Commit.__repr__


class Broker:
    """A queue in memory that does to messages what it is told."""

    def __init__(self, via: str) -> None:
        self.via = via
        self.ids_per_message = 10
        self.sending = Sending.KEPT
        self.messages: list[Message] = []
        """What waits to be delivered, oldest first."""
        self.past: list[Message] = []
        """What has been taken from them, and may arrive once more."""
        self.sent: list[Message] = []
        """All it has taken in this step, lost or not."""
        self.refused: list[Message] = []

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def depth(self, queue: str) -> int:
        """Count the messages of a queue."""
        return sum(message.queue == queue for message in self.messages)

    def take(self, index: int = 0) -> Message:
        """Take a message out of those that wait."""
        self.past.append(self.messages.pop(index % len(self.messages)))
        return self.past[-1]

    async def send(self, messages: Sequence[Message]) -> None:
        """Take the messages, or not."""
        if self.sending is Sending.REFUSED:
            self.refused += messages
            raise ConnectionError("the broker is down")
        if self.sending is Sending.CRASH:
            raise Crash
        # In an order of their own, so that an example can be repeated: a statement's rows come in any order.
        messages = sorted((replace(message, ids=tuple(sorted(message.ids))) for message in messages), key=str)
        self.sent += messages
        if self.sending is Sending.KEPT:
            self.messages += messages


class World:
    """The database and the broker, and time, which passes only when it is told to (but for the test's own)."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broker = Broker("model")
        self.elsewhere = Broker("another")
        self.elsewhere.sending = Sending.LOST
        self.coming: list[Commit] = []
        """What becomes of the next commits; those after them are done."""
        self.has_failed = False
        """Whether a commit has failed in this step."""
        database._single = database.engine  # what is committed by itself otherwise can be undone so, too
        dialect: Any = database.engine.sync_engine.dialect
        self._commit, self._roll_back = dialect.do_commit, dialect.do_rollback
        dialect.do_commit = self._commit_or_fail

    async def create_effects(self) -> None:
        """Create the table of effects."""
        async with self.database.begin() as connection:
            await connection.run_sync(effects.create)

    async def clear(self) -> None:
        """Begin a new example."""
        self.broker.messages.clear()
        self.broker.past.clear()
        async with self.database.begin() as connection:
            for table in effects, tasks, queues:
                await connection.execute(delete(table))

    async def read(self) -> dict[UUID, Record]:
        """Return all records, oldest first, each with the count of its `effects` and the time it was `read_at`."""
        count = select(func.count()).where(effects.c.task_id == tasks.c.id).scalar_subquery()
        query = select(tasks, count.label("effects"), now().label("read_at")).order_by(tasks.c.id)
        async with self.database.read() as session:
            return {row.id: row for row in await session.execute(query)}

    async def turn_clock(self, seconds: float) -> None:
        """Let time pass, by moving everything else back."""

        def earlier(table: Table, names: Sequence[str]) -> dict[str, ColumnElement[datetime]]:
            return {name: plus(table.c[name], -seconds) for name in names}

        async with self.database.begin() as connection:
            await connection.execute(update(tasks).values(earlier(tasks, TASK_TIMES)))
            await connection.execute(update(queues).values(earlier(queues, QUEUE_TIMES)))
        passed = timedelta(seconds=seconds)
        for messages in self.broker.messages, self.broker.past:
            messages[:] = [replace(message, sent_at=message.sent_at - passed) for message in messages]

    def _commit_or_fail(self, connection: Any) -> None:
        fate = self.coming.pop(0) if self.coming else Commit.DONE
        (self._roll_back if fate is Commit.LOST else self._commit)(connection)
        if fate is not Commit.DONE:
            self.has_failed = True
            raise ConnectionError("the database is gone")


class ModelTasks:
    """One task of each kind. The model decides how a run ends; the functions themselves are never called."""

    def __init__(self) -> None:
        async def run(_context: TaskContext, _payload: Any) -> None: ...

        async def run_after(_context: TaskContext, _payload: FailedTask) -> None: ...

        self.plain = task(name="model.plain", queue="slow", max_attempts=2)(run)
        self.writer = task(name="model.writer", max_attempts=3)(run)
        self.parent = task(name="model.parent", max_attempts=1)(run)
        self.after = task(name="model.after", queue="slow")(run_after)
        self.guarded = task(name="model.guarded", max_attempts=2, on_failure=self.after)(run)
        self.submitted: list[Task[Any, Any]] = [self.writer, self.plain, self.parent, self.guarded]
        """Those that clients submit."""
        self.all: list[Task[Any, Any]] = [*self.submitted, self.after]
        self.writers = {self.writer.name, self.parent.name}
        """Those whose completion has an effect."""

    def registry(self, *tasks: Task[Any, Any]) -> Registry:
        """Return what a worker knows: some of the tasks, or all."""
        registry = Registry()
        for known in tasks or self.all:
            registry.add(known)
        return registry


def origin(record: Record) -> UUID | None:
    """Return the task that submitted a record, by completing or by failing."""
    payload = record.payload
    if isinstance(payload, dict):
        payload = payload.get("id", payload.get("parent"))
    return UUID(payload) if isinstance(payload, str) else None


def shown(record: Record) -> dict[str, Any]:
    """Return what a client sees of a record."""
    return TaskView.model_validate(record).model_dump()


def columns(record: Record) -> dict[str, Any]:
    """Return all columns of a record, and nothing that was read with it."""
    return {name: value for name, value in record._mapping.items() if name in TaskRecord.__table__.columns}


def is_final(record: Record) -> bool:
    """Tell whether a task has ended."""
    return cast(str, record.status) not in {"pending", "running"}
