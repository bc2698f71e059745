"""What a running task is given: who it is, its transaction, progress, retries and further tasks."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor as ThreadPool
from contextlib import asynccontextmanager
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session as SyncSession

from app.database import Database, is_unavailable
from app.tasks import process, store
from app.tasks.new_task import NewTask, storable

if TYPE_CHECKING:
    from app.tasks.definition import Task

T = TypeVar("T")
P = TypeVar("P")
Args = ParamSpec("Args")

PROGRESS_INTERVAL_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10 * 365 * 86_400.0
TRANSACTION_SECONDS = 30.0
"""How long a task's transaction may be open: it holds locks, and the server ends one that idles for a minute."""


class TaskFailed(Exception):
    """Raise it in a task to fail it for good, without another attempt; the client sees the message."""


class TaskRetry(Exception):
    """Raised by `context.retry`."""

    def __init__(self, after: float | None) -> None:
        super().__init__(after)
        self.after = after


class LeaseLost(Exception):
    """The task is no longer this run's: another worker has it, or it was taken from here."""


class TransactionTooLong(Exception):
    """The task's transaction was open for too long; slow work belongs before it."""


class EffectSession(AsyncSession):
    """A session that only the executor commits, together with the task's settlement.

    A commit by any other way raises RuntimeError; the end of a savepoint is none.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, expire_on_commit=False)
        self._may_commit = False
        event.listen(self.sync_session, "before_commit", self._check)

    async def commit_with_settlement(self) -> None:
        """Commit, once the settlement is among what was written."""
        self._may_commit = True
        await self.commit()

    def _check(self, session: SyncSession) -> None:
        if not self._may_commit and session.get_nested_transaction() is None:
            raise RuntimeError("leave the commit to the task: it happens with its completion, when it returns")


class TaskContext:
    """One run of one task."""

    def __init__(self, claim: store.Claim, database: Database, threads: ThreadPool) -> None:
        self.task_id: UUID = claim.id
        """Also the idempotency key for effects outside the database: it is the same in every attempt."""
        self.name = claim.name
        self.attempt = claim.attempt
        self.max_attempts = claim.max_attempts
        self.owner = claim.owner
        self.correlation_id = claim.correlation_id
        self.traceparent = claim.traceparent
        self._claim = claim
        self._database = database
        self._threads = threads
        self._lost = threading.Event()
        self._abandoned = threading.Event()
        self._opened_at = 0.0
        self.effects: EffectSession | None = None
        self.children: list[NewTask] = []
        self.running_threads: set[asyncio.Future[Any]] = set()
        self._progress_at = 0.0

    @property
    def lost(self) -> bool:
        """Whether this run counts no more: lost, timed out or stopped. A long loop in a thread should look at it."""
        return self._lost.is_set() or self._abandoned.is_set()

    def read(self) -> AsyncSession:
        """Return a fresh session for reading: `async with context.read() as session`."""
        return self._database.read()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open the transaction that ends this task: what it writes is committed together with the completion.

        It comes last and is short: do slow work before it. Leaving the block does not commit; the return of the
        task does, if no other worker has taken over meanwhile. Raises RuntimeError if there is one already.
        """
        if self.effects is not None:
            raise RuntimeError("a task has one transaction, at its end")
        self._opened_at = time.monotonic()
        self.effects = EffectSession(self._database.engine)
        try:
            yield self.effects
            await self.effects.flush()
        except BaseException:
            await self.roll_back()
            raise

    async def progress(self, fraction: float, message: str = "") -> None:
        """Tell those who poll how far the task is, from 0 to 1.

        Calls within a fifth of a second of the last are left out, so it may be called in a loop. Raises LeaseLost
        if the task is no longer this run's.
        """
        if self.effects is not None:
            return  # the completion is next, and the open transaction would be in its way
        if time.monotonic() - self._progress_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._progress_at = time.monotonic()
        progress = {"fraction": min(max(fraction, 0.0), 1.0), "message": storable(message[:200])}
        try:
            async with self._database.begin_one() as connection:
                held = await store.record_progress(connection, (self.task_id, self._claim.fence), progress)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return  # it is only news
        if not held:
            self._lost.set()
            raise LeaseLost

    def retry(self, *, after: float | None = None) -> NoReturn:
        """End this attempt and ask for another, after so many seconds (by default as the task's policy says).

        It counts as an attempt: after the last one the task fails. Raises ValueError for a wait that is negative,
        or longer than ten years.
        """
        if after is not None and not 0 <= after <= LONGEST_WAIT_SECONDS:
            raise ValueError(f"after={after!r}: wait from 0 to {LONGEST_WAIT_SECONDS:.0f} seconds")
        raise TaskRetry(after)

    async def submit(self, task: "Task[P, Any]", payload: P, *, run_at: datetime | None = None) -> UUID:
        """Submit a further task. It comes to be when this one completes, so that a retry does not double it."""
        child = NewTask.of(
            task,
            payload,
            run_at=run_at,
            owner=self.owner,
            correlation_id=self.correlation_id,
            traceparent=self.traceparent,
        )
        self.children.append(child)
        return child.id

    async def in_thread(self, function: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
        """Run a blocking function in a thread, so that other tasks go on meanwhile.

        A thread cannot be stopped: after a timeout it runs on, and keeps its place in the worker until it ends.
        """
        loop = asyncio.get_running_loop()
        context = copy_context()
        future = loop.run_in_executor(self._threads, lambda: context.run(function, *args, **kwargs))
        self.running_threads.add(future)
        future.add_done_callback(self._forget_thread)
        return await asyncio.shield(future)

    async def in_process(self, function: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
        """Run a function that computes in a process, so that it takes no time from other tasks.

        It is a function of a module, with arguments and a result that can be pickled. A timeout or a cancellation
        kills the process. Raises anyio.BrokenWorkerProcess if the process dies.
        """
        return await process.call(function, *args, **kwargs)

    def check_transaction(self) -> None:
        """Raise TransactionTooLong if the transaction has been open for longer than is allowed."""
        if self.effects is not None and time.monotonic() - self._opened_at > TRANSACTION_SECONDS:
            raise TransactionTooLong(f"the task's transaction was open for more than {TRANSACTION_SECONDS:g} s")

    def is_ours(self) -> bool:
        """Tell whether the claim may still stand."""
        return not self._lost.is_set()

    def mark_lost(self) -> None:
        """Note that the task is no longer this run's. From any thread."""
        self._lost.set()

    async def abandon(self) -> None:
        """Undo what the task wrote in its transaction, and let threads that go on see that they are not needed."""
        self._abandoned.set()
        await self.roll_back()

    async def roll_back(self) -> None:
        """Undo what the task wrote in its transaction."""
        effects, self.effects = self.effects, None
        if effects is not None:
            await effects.close()

    def _forget_thread(self, future: "asyncio.Future[Any]") -> None:
        self.running_threads.discard(future)
        if not future.cancelled():
            future.exception()  # an abandoned thread's error is nobody's news
