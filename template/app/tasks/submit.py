"""Accepting tasks: records are written, and their messages are sent after the commit."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Connection, Database, is_unavailable
from app.queues.base import Message, TaskQueue
from app.tasks import store
from app.tasks.batch import Batch
from app.tasks.models import TaskRecord
from app.tasks.new_task import IdempotencyKey, NewTask
from app.tasks.outbox import outbox
from app.tasks.schemas import TaskAccepted
from app.telemetry import get_logger

logger = get_logger(__name__)

KEYS_AT_ONCE = 100
Recorded = tuple[datetime, asyncio.Task[None]]
"""When a task was recorded, and the sending of its message."""


class Replay(Exception):
    """A submission with a known idempotency key: the task it was accepted as is there already."""

    def __init__(self, accepted: TaskAccepted) -> None:
        super().__init__(f"accepted before as task {accepted.id}")
        self.accepted = accepted


class KeyReused(Exception):
    """An idempotency key that was used before, for something else."""


class Submitter:
    """Records tasks and sends their messages; one for each process."""

    def __init__(self, database: Database, queue: TaskQueue) -> None:
        self.database = database
        self.queue = queue
        self._sending: set[asyncio.Task[None]] = set()
        self._additions = Batch(self._add_together)

    async def submit(self, new: NewTask) -> TaskAccepted:
        """Record a task in a transaction of its own and send its message.

        A broker that is down does not matter: recovery sends the message later. Raises Replay or KeyReused for a
        known idempotency key, and what the database raises.
        """
        # A key that an open transaction holds would make a whole group wait, so keyed ones go alone.
        alone = new.key is not None or new.run_at is not None
        record = self._record if alone else self._additions.do
        try:
            created_at, sending = await record(new)
        except Exception as error:
            if not is_unavailable(error):
                raise
            # The answer to the commit may have been lost. The same id again changes nothing if it is there.
            created_at, sending = await record(new)
        await asyncio.shield(sending)
        return new.accepted(created_at)

    async def submit_many(self, group: Sequence[NewTask]) -> list[TaskAccepted]:
        """Record tasks in one transaction, all or none, and send their messages. Raises as `submit` does."""
        async with self.database.begin() as connection:
            created = await self.add_many(connection, group)
        await asyncio.shield(self.send_soon(self._messages_of(group, created)))
        return [new.accepted(created[new.id]) for new in group]

    async def submit_many_with(self, group: Sequence[NewTask], session: AsyncSession) -> list[TaskAccepted]:
        """Record tasks in the caller's transaction; see `submit_with`."""
        created = await self.add_many(session, group)
        outbox(session, self.send_soon).add(self._messages_of(group, created))
        return [new.accepted(created[new.id]) for new in group]

    async def submit_with(self, new: NewTask, session: AsyncSession) -> TaskAccepted:
        """Record a task in the caller's transaction: its message is sent after that commits, or never.

        Raises Replay or KeyReused for a known idempotency key.
        """
        created_at = await self.add(session, new)
        outbox(session, self.send_soon).add(new.messages(created_at))
        return new.accepted(created_at)

    async def add(self, connection: Connection, new: NewTask) -> datetime:
        """Insert the record; the caller commits, and sends its messages after that. Returns its time of creation.

        Raises Replay or KeyReused for a known idempotency key.
        """
        while True:
            created_at = await store.add(connection, new.row(self.queue.via))
            if created_at is not None:
                return created_at
            known = await connection.execute(select(TaskRecord.created_at).where(TaskRecord.id == new.id))
            if (mine := known.scalar()) is not None:
                return mine
            if new.key is not None:
                await self.check_key(connection, new.owner, new.key)
            # Neither is there: whoever had the key has deleted its record meanwhile.

    async def add_many(self, connection: Connection, group: Sequence[NewTask]) -> dict[UUID, datetime]:
        """Insert records, together where they may be. Returns their times of creation, by id."""
        plain = [new for new in group if new.key is None and new.run_at is None]
        created = await store.add_all(connection, [new.row(self.queue.via) for new in plain]) if plain else {}
        for new in group:
            if new.id not in created:  # with a key or for later, or a try before this one was committed
                created[new.id] = await self.add(connection, new)
        return created

    async def check_key(self, connection: Connection, owner: str, key: IdempotencyKey) -> None:
        """Raise Replay if the key is known with the same payload, KeyReused if with another."""
        columns = [TaskRecord.payload_hash, *(getattr(TaskRecord, name) for name in TaskAccepted.model_fields)]
        mine = and_(TaskRecord.owner == owner, TaskRecord.scope == key.scope, TaskRecord.idempotency_key == key.key)
        row = (await connection.execute(select(*columns).where(mine))).one_or_none()
        if row is None:
            return
        if row.payload_hash != key.payload_hash:
            raise KeyReused("This Idempotency-Key was used before with another payload; use a new one.")
        raise Replay(TaskAccepted.model_validate(row))

    async def find_accepted(self, owner: str, key: IdempotencyKey) -> list[TaskAccepted]:
        """Return all tasks that were submitted with a request's key, in their order, as they are now."""
        columns = [TaskRecord.idempotency_key, *(getattr(TaskRecord, name) for name in TaskAccepted.model_fields)]
        mine = and_(TaskRecord.owner == owner, TaskRecord.scope == key.scope)
        found: list[TaskAccepted] = []
        async with self.database.read() as session:
            while True:
                numbers = range(len(found) + 1, len(found) + 1 + KEYS_AT_ONCE)
                keys = [key.numbered(number).key for number in numbers]
                rows = await session.execute(select(*columns).where(mine, TaskRecord.idempotency_key.in_(keys)))
                by_key = {row.idempotency_key: TaskAccepted.model_validate(row) for row in rows}
                found += [by_key[name] for name in keys if name in by_key]
                if len(by_key) < len(keys):
                    return found

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages; if the broker does not take them, note that they are owed. Never raises for the broker."""
        if not messages:
            return
        try:
            await self.queue.send(messages)
        except Exception as error:
            logger.warning("broker unavailable, tasks wait", error=type(error).__name__, messages=len(messages))
            await self._note_unsent(messages)

    async def resend(self, ids: Collection[UUID], *, parts: int = 1) -> None:
        """Send pending tasks again, at once, in so many messages. If that fails, recovery does it."""
        try:
            async with self.database.begin_one() as connection:
                owed = await store.take_again(connection, ids, via=self.queue.via)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return
        in_parts = max(1, -(-len(owed) // parts))
        await self.send(to_messages(owed, at_most=min(in_parts, self.queue.ids_per_message)))

    def send_soon(self, messages: Sequence[Message]) -> asyncio.Task[None]:
        """Send messages in the background."""
        sending = asyncio.get_running_loop().create_task(self.send(messages))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return sending

    async def close(self) -> None:
        """Wait for what is being sent."""
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _record(self, new: NewTask) -> Recorded:
        async with self.database.begin() as connection:
            created_at = await self.add(connection, new)
        return created_at, self.send_soon(new.messages(created_at))

    async def _add_together(self, group: Sequence[NewTask]) -> list[Recorded]:
        # Not `begin_one`: the next group grows during the trips of this one, and larger messages cost workers less.
        async with self.database.begin() as connection:
            created = await self.add_many(connection, group)
        sending = self.send_soon(self._messages_of(group, created))
        return [(created[new.id], sending) for new in group]

    def _messages_of(self, group: Collection[NewTask], created: Mapping[UUID, datetime]) -> list[Message]:
        """Return the messages for new tasks; those for later need none yet."""
        owed = [store.Owed(new.id, new.task.queue, created[new.id]) for new in group if new.run_at is None]
        return to_messages(owed, at_most=self.queue.ids_per_message)

    async def _note_unsent(self, messages: Sequence[Message]) -> None:
        try:
            async with self.database.begin() as connection:
                for message in messages:
                    if message.ids:
                        await store.mark_unsent(connection, message.ids, message.sent_at)
        except Exception as error:
            if not is_unavailable(error):
                raise
            logger.warning("database unavailable, a later message will show that these were lost")


def to_messages(owed: Collection[store.Owed], *, at_most: int) -> list[Message]:
    """Group records into messages of at most so many ids, each queue's apart."""
    groups: dict[tuple[str, datetime], list[UUID]] = {}
    for record in owed:
        groups.setdefault((record.queue, record.sent_at), []).append(record.id)
    return [
        Message(queue, tuple(ids[start : start + at_most]), sent_at)
        for (queue, sent_at), ids in groups.items()
        for start in range(0, len(ids), at_most)
    ]
