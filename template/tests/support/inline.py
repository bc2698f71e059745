"""Running submitted tasks to their end in the test's own process."""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, update

from app.database import Database, now
from app.queues.base import Message
from app.settings import Settings
from app.tasks import TaskRecord
from app.tasks.recovery import Recovery
from app.tasks.worker import Worker


class InlineQueue:
    """A queue that keeps its messages in a list. `broken` makes it refuse to send, as a broker does that is down."""

    via = "inline"
    ids_per_message = 10

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.broken = False

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Keep the messages."""
        if self.broken:
            raise ConnectionError("the broker is down")
        self.messages += messages

    async def depth(self, queue: str) -> int:
        """Count the messages of a queue."""
        if self.broken:
            raise ConnectionError("the broker is down")
        return sum(message.queue == queue for message in self.messages)

    @property
    def sent(self) -> list[UUID]:
        """The ids in all messages that nobody has taken yet."""
        return [task_id for message in self.messages for task_id in message.ids]


def trust_database(recovery: Recovery) -> None:
    """Let recovery take what dead workers held, as if it had seen the database for long enough."""
    recovery._healthy_since = float("-inf")
    recovery._answered_at = time.monotonic()


class TaskRunner:
    """Delivers what an InlineQueue holds to a worker in this process."""

    def __init__(self, settings: Settings, database: Database, queue: InlineQueue) -> None:
        self.queue = queue
        self.worker = Worker(settings, queue)
        self._database = database

    async def deliver(self) -> None:
        """Deliver the messages there are, and wait for the tasks in them."""
        messages, self.queue.messages = self.queue.messages, []
        await asyncio.gather(*(self.worker.deliver(message) for message in messages))
        await self.worker.executor.join()

    async def __call__(self) -> list[TaskRecord]:
        """Run all pending tasks to their end, without waiting for their time; return all records, oldest first."""
        while True:
            await self.deliver()
            async with self._database.begin() as connection:
                await connection.execute(update(TaskRecord).where(TaskRecord.status == "pending").values(run_at=now()))
            await self.worker.recovery.tick()
            if not self.queue.sent:
                break
        async with self._database.read() as session:
            return list(await session.scalars(select(TaskRecord).order_by(TaskRecord.id)))
