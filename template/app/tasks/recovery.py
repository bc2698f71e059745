"""Delivering again what is owed: due tasks, lost messages, the tasks of dead workers. Every worker runs it."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database, is_unavailable
from app.queues.base import Message
from app.tasks import deliveries, store
from app.tasks.executor import Executor
from app.tasks.failure import follow_up
from app.tasks.heartbeat import interval
from app.tasks.loop import Loop
from app.tasks.models import TaskStatus
from app.tasks.new_task import NewTask
from app.tasks.submit import Submitter, to_messages
from app.telemetry import get_logger

logger = get_logger(__name__)

TICK_SECONDS = 0.5
BATCH = 500
WAITING_SECONDS = 1.0
PROBE_SECONDS = 5.0
PURGE_SECONDS = 60.0
MOVE_SECONDS = 60.0
DAY_SECONDS = 86_400.0


class Recovery:
    """The recovery loop of one worker; it shares the work with those of the others without agreement.

    Where a worker has several processes, it `is_active` in one of them; the others only note what has arrived there,
    and ask each time whether it is their turn.
    """

    def __init__(
        self,
        database: Database,
        submitter: Submitter,
        executor: Executor,
        *,
        lease: float,
        retention_days: float,
        is_active: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._submitter = submitter
        self._executor = executor
        self._lease = lease
        self._retention = retention_days * DAY_SECONDS
        self._via = submitter.queue.via
        self._is_active = is_active
        self._healthy_since: float | None = None
        self._answered_at: float | None = None
        """When the database answered last, if it did not fail since."""
        self._purge_at = time.monotonic() + PURGE_SECONDS
        self._move_at = time.monotonic()
        self._loop = Loop(self._try_tick, TICK_SECONDS)

    def start(self) -> None:
        """Begin, in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop after the step under way; one that takes too long is cut off."""
        await self._loop.stop()

    async def tick(self) -> None:
        """Do once what is to be done now. Raises what the database raises."""
        await self._note_deliveries()
        if not self._is_active():
            return
        if self._may_reclaim():
            await self._reclaim()
        await self._send(await self._take_unsent())
        for queue in sorted({task.queue for task in self._executor.registry}):
            await self._look_for_lost_messages(queue)
        if time.monotonic() >= self._move_at:
            await self._send(await self._take_moved())
        if time.monotonic() >= self._purge_at:
            await self._purge()

    async def _try_tick(self) -> None:
        try:
            await self.tick()
        except Exception as error:
            self._answered_at = None
            if is_unavailable(error):
                logger.warning("database unavailable", error=type(error).__name__)
            else:
                logger.exception("recovery failed")

    def _may_reclaim(self) -> bool:
        """After an outage of the database the healthy beat first: their leases have run out too."""
        if self._healthy_since is None:
            return False
        return time.monotonic() - self._healthy_since > interval(self._lease) + 1

    @asynccontextmanager
    async def _begin_one(self) -> AsyncIterator[AsyncConnection]:
        """Return a transaction of one statement as a block, and note that the database answers."""
        async with self._database.begin_one() as connection:
            yield connection
            self._note_answer()

    def _note_answer(self) -> None:
        """Begin to count healthy time anew after an outage, and after a silence: a database may stand still and go on.

        A silence is short of the time in which a lease runs out although its worker is healthy.
        """
        now = time.monotonic()
        if self._answered_at is None or now - self._answered_at > TICK_SECONDS + self._lease / 3:
            self._healthy_since = now
        self._answered_at = now

    async def _note_deliveries(self) -> None:
        arrived = self._executor.delivered_to
        news = dict(arrived)
        if not news:
            return
        for queue, sent_at in news.items():
            async with self._begin_one() as connection:
                await deliveries.record_delivered(connection, via=self._via, queue=queue, sent_at=sent_at)
            if arrived.get(queue) == sent_at:
                del arrived[queue]

    async def _reclaim(self) -> None:
        registry = self._executor.registry
        follow_ups: list[NewTask] = []
        async with self._database.begin() as connection:
            reclaimed = await store.reclaim(connection, known=self._known(), limit=BATCH)
            for record in reclaimed:
                if record.status == TaskStatus.FAILED:
                    follow_ups += follow_up(registry[record.name], record, store.WORKER_LOST)
            for child in follow_ups:
                await self._submitter.add(connection, child)
            self._note_answer()
            if not self._may_reclaim():  # these statements have waited themselves
                raise TimeoutError("the database stood still")
        for record in reclaimed:
            log = logger.error if record.status == TaskStatus.FAILED else logger.warning
            log(
                "task failed for good" if record.status == TaskStatus.FAILED else "worker lost with a task",
                task=record.name,
                task_id=str(record.id),
                lost_worker=record.worker,
                crashes=record.crashes,
                status=record.status,
            )
        if follow_ups:
            await self._submitter.resend([child.id for child in follow_ups])

    def _known(self) -> list[str]:
        return [task.name for task in self._executor.registry]

    async def _take_unsent(self) -> list[store.Owed]:
        async with self._begin_one() as connection:
            return await store.take_unsent(connection, queues=self._queues(), via=self._via, limit=BATCH)

    def _queues(self) -> dict[str, str]:
        return {task.name: task.queue for task in self._executor.registry}

    async def _take_moved(self) -> list[store.Owed]:
        """Take what waits in a queue that its task has left, where perhaps nobody listens any more."""
        async with self._begin_one() as connection:
            moved = await store.take_moved(
                connection, queues=self._queues(), via=self._via, older_than=MOVE_SECONDS, limit=BATCH
            )
        if moved:
            logger.info("tasks sent to the queue that they have now", tasks=len(moved))
        if len(moved) < BATCH:
            self._move_at = time.monotonic() + MOVE_SECONDS
        return moved

    async def _look_for_lost_messages(self, queue: str) -> None:
        async with self._database.read() as session:
            if not await deliveries.is_waiting(session, queue, WAITING_SECONDS):
                return
        async with self._begin_one() as connection:
            owed = await store.take_undelivered(
                connection, known=self._known(), via=self._via, queue=queue, limit=BATCH
            )
        async with self._begin_one() as connection:
            probe = await deliveries.take_probe(connection, via=self._via, queue=queue, every=PROBE_SECONDS)
        if probe is not None:
            async with self._begin_one() as connection:
                owed += await store.take_elsewhere(connection, known=self._known(), via=self._via, limit=BATCH)
        if owed:
            logger.warning("messages lost, sending again", queue=queue, tasks=len(owed))
        if probe is not None:
            await self._submitter.send([Message(queue, (), probe)])
        await self._send(owed)

    async def _send(self, owed: Sequence[store.Owed]) -> None:
        if owed:
            await self._submitter.send(to_messages(owed, at_most=self._submitter.queue.ids_per_message))

    async def _purge(self) -> None:
        async with self._begin_one() as connection:
            purged = await store.purge(connection, older_than=self._retention, limit=BATCH)
        if purged:
            logger.info("old task records deleted", tasks=purged)
        if purged < BATCH:
            self._purge_at = time.monotonic() + PURGE_SECONDS
