"""Running what the queue delivers: room, claim, run."""

import asyncio
import os
import time
from collections.abc import Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from app.database import Database, is_unavailable
from app.queues.base import Message
from app.tasks import store
from app.tasks.batch import Batch
from app.tasks.definition import Registry
from app.tasks.run import Run, Stop
from app.tasks.settlement import Settler
from app.tasks.store import Claim
from app.tasks.submit import Submitter
from app.telemetry import get_logger

T = TypeVar("T")

logger = get_logger(__name__)

ROOM_WAIT_SECONDS = 1.0
"""How long a message waits for room in a full worker, before it goes back to the queue for another."""
CLAIM_PATIENCE_SECONDS = 30.0
CLAIM_RETRY_SECONDS = 0.2
SUSPECT_WAIT_SECONDS = 1.0
STUCK_SECONDS = 5.0
"""How long a thread may go on after its task was timed out or cancelled, where its process is ended for that."""


@dataclass
class Wanted:
    """Tasks to claim, and the tokens of the tries so far whose outcome is not known."""

    ids: Sequence[UUID]
    tokens: list[UUID] = field(default_factory=list)


class Executor:
    """Runs tasks in this process, at most `concurrency` at a time."""

    def __init__(
        self,
        database: Database,
        submitter: Submitter,
        registry: Registry,
        *,
        worker: str,
        lease: float,
        concurrency: int,
        ends_when_stuck: bool = False,
    ) -> None:
        self.registry = registry
        self.runs: dict[store.Pair, Run] = {}
        self.delivered_to: dict[str, datetime] = {}
        """The latest time of sending that has arrived here and is not noted yet, for each queue."""
        self._database = database
        self._submitter = submitter
        self._settler = Settler(database, submitter)
        self._worker = worker
        self._lease = lease
        self._free = concurrency
        self._waiting = 0
        self._ends_when_stuck = ends_when_stuck
        self._room = asyncio.Condition()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="task")
        self._busy: set[asyncio.Task[Any]] = set()
        self._claims = Batch(self._claim_together, at_once=1)  # one: at most one suspect is claimed at a time
        self._closing = False
        self._has_suspect = False
        """Whether a task runs here with which a worker was lost before."""

    @property
    def room(self) -> int:
        """For how many tasks there is room beside those of the messages that wait for it; below 0 if for no more."""
        return self._free - self._waiting

    async def deliver(self, message: Message) -> None:
        """Take a message: claim its tasks and let them run. Returns once it may be acknowledged.

        Tasks for which there is no room go back to the queue. Nothing is lost by any error here: the records know
        what is owed.
        """
        await self._take(message)

    async def run(self, message: Message) -> bool:
        """Take a message as `deliver` does, and return when its tasks have ended here.

        Returns False if this worker is stopping: the message is for another.
        """
        if self._closing:
            return False
        runs = await self._take(message)
        if runs:
            await asyncio.wait(runs)
        return True

    async def _take(self, message: Message) -> list[asyncio.Task[None]]:
        arrived = self.delivered_to.get(message.queue)
        if arrived is None or message.sent_at > arrived:
            self.delivered_to[message.queue] = message.sent_at
        if message.ids and not self._closing:
            self._waiting += 1  # at once: what looks for room may look before the message has its turn
            # Shielded, so that an engine that stops cannot cut in between a claim and its run.
            return await asyncio.shield(self._keep(self._accept(message.ids)))
        return []

    async def drain(self, grace: float) -> bool:
        """Take nothing more, let tasks go on for `grace` seconds, then hand back the rest.

        Returns whether everything has ended; False if a thread that cannot be stopped still runs.
        """
        self._closing = True
        if self._busy:
            logger.info("worker stopping", running=len(self.runs), grace=grace)
            await asyncio.wait(self._busy, timeout=grace)
        for run in list(self.runs.values()):
            run.stop(Stop.SHUTDOWN)
        if self._busy:
            await asyncio.wait(self._busy, timeout=5)
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not self._busy

    def list_runs(self) -> list[Run]:
        """Return what runs here and has not lost its lease. From any thread."""
        return [run for run in list(self.runs.values()) if run.context.is_ours()]

    async def join(self) -> None:
        """Wait until nothing runs."""
        while self._busy:
            await asyncio.wait(self._busy)

    async def _accept(self, ids: Sequence[UUID]) -> list[asyncio.Task[None]]:
        taken = await self._take_room(len(ids))
        claims: Sequence[Claim] = []
        begun = time.monotonic()
        try:
            if taken:
                claims = await self._claim(ids[:taken])
        finally:
            await self._give_room(taken - len(claims))
        tasks = []
        for claim in claims:
            run = Run(claim, self.registry[claim.name], self._database, self._threads, begun)
            self.runs[run.pair] = run
            tasks.append(self._keep(self._execute(run)))
        if ids[taken:]:
            await self._submitter.resend(ids[taken:], parts=2)
        return tasks

    async def _execute(self, run: Run) -> None:
        try:
            await run.execute(self._settler)
        except Exception:  # the lease runs out, and recovery hands the task to another
            logger.exception("task could not be settled", task_id=str(run.claim.id))
        finally:
            del self.runs[run.pair]
            if run.claim.crashes:
                self._has_suspect = False
            await self._wait_for_threads(run)
            await self._give_room(1)

    async def _wait_for_threads(self, run: Run) -> None:
        if not self._ends_when_stuck:
            await run.wait_for_threads()
            return
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await run.wait_for_threads()
        except TimeoutError:
            logger.error("a thread goes on after its task: this process ends", task_id=str(run.claim.id))
            os._exit(1)

    async def _claim(self, ids: Sequence[UUID]) -> Sequence[Claim]:
        """Claim what can be claimed; while the database is away, try again for a while."""
        wanted = Wanted(ids)
        give_up = time.monotonic() + CLAIM_PATIENCE_SECONDS
        while True:
            try:
                return await self._claims.do(wanted)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if time.monotonic() > give_up:
                    logger.warning("database unavailable, message dropped", error=type(error).__name__)
                    return []
            await asyncio.sleep(CLAIM_RETRY_SECONDS)

    async def _claim_together(self, group: Sequence[Wanted]) -> list[list[Claim]]:
        ids = list(dict.fromkeys(task_id for wanted in group for task_id in wanted.ids))
        earlier = [token for wanted in group for token in wanted.tokens]
        token = uuid4()
        for wanted in group:
            wanted.tokens.append(token)
        claims: list[Claim] = []
        if earlier:  # a try whose answer never came may have been committed
            async with self._database.read() as session:
                claims = await store.find_claimed(session, ids, earlier)
        has_suspect = self._has_suspect or any(claim.crashes for claim in claims)
        async with self._database.begin_one() as connection:
            claims += await store.claim(
                connection,
                ids,
                known=[task.name for task in self.registry],
                worker=self._worker,
                token=token,
                lease=self._lease,
                may_take_suspect=not has_suspect,
            )
        if len(claims) < len(ids):
            await self._put_off_suspects(ids)
        self._has_suspect |= any(claim.crashes for claim in claims)
        found = {claim.id: claim for claim in claims}
        return [[found.pop(task_id) for task_id in wanted.ids if task_id in found] for wanted in group]

    async def _put_off_suspects(self, ids: Collection[UUID]) -> None:
        """A task with which a worker was lost runs where no other such task runs: this one must wait."""
        async with self._database.read() as session:
            suspects = await store.find_suspects(session, ids)
        if suspects:
            async with self._database.begin_one() as connection:
                await store.put_off(connection, suspects, SUSPECT_WAIT_SECONDS)

    async def _take_room(self, wanted: int) -> int:
        """Let a waiting message have room for at least one task, or none after a while. Returns for how many."""
        try:
            async with self._room:
                try:
                    async with asyncio.timeout(ROOM_WAIT_SECONDS):
                        await self._room.wait_for(lambda: self._free > 0)
                except TimeoutError:
                    return 0
                taken = min(wanted, self._free)
                self._free -= taken
                return taken
        finally:
            self._waiting -= 1

    async def _give_room(self, count: int) -> None:
        async with self._room:
            self._free += count
            self._room.notify(count)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        return task
