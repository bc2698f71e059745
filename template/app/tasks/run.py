"""One run of one claimed task: the function, within its time, and how it ended."""

import asyncio
import json
import random
import time
from concurrent.futures import Executor as ThreadPool
from enum import Enum
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database, is_unavailable
from app.tasks import process
from app.tasks.context import LeaseLost, TaskContext, TaskFailed, TaskRetry
from app.tasks.definition import Task
from app.tasks.failure import follow_up
from app.tasks.new_task import storable, unstorable
from app.tasks.retry import should_retry
from app.tasks.settlement import Cancelled, Completed, Failed, Outcome, Released, Retried, Settler
from app.tasks.store import Claim
from app.telemetry import get_logger

logger = get_logger(__name__)


MESSAGE_LENGTH = 1000


class TaskTimedOut(Exception):
    """An attempt took longer than the task's timeout."""


class PayloadMismatch(Exception):
    """The payload was recorded by a version of the task that took another one."""


class UnstorableResult(Exception):
    """What the task returned does not fit its type, or is not JSON."""


class Stop(Enum):
    """Why a run is stopped before its function returns."""

    LOST = "lost"
    EXPIRED = "expired"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"


LOSSES = (Stop.LOST, Stop.EXPIRED)


class Run:
    """A claimed task that runs in this process. `renewed_at` is monotonic time from before it was claimed."""

    def __init__(
        self, claim: Claim, task: Task[Any, Any], database: Database, threads: ThreadPool, renewed_at: float
    ) -> None:
        self.claim = claim
        self.pair = (claim.id, claim.fence)
        self.renewed_at = renewed_at
        self.context = TaskContext(claim, database, threads)
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._function: asyncio.Task[Any] | None = None
        self._stopped: Stop | None = None

    def stop(self, reason: Stop) -> None:
        """Stop the function at its next await. From the loop's thread; the first reason stays, but a loss outweighs it.

        The heartbeat repeats itself: only news cancels the function, or what it awaits to clean up would be cut off
        at every beat.
        """
        is_news = self._stopped is None or (reason in LOSSES and self._stopped not in LOSSES)
        if self._stopped is None or reason is Stop.LOST:
            self._stopped = reason
        if is_news and self._function is not None:
            self._function.cancel()

    def lose(self) -> None:
        """Stop because the task is no longer this run's. From any thread."""
        self.context.mark_lost()
        self._loop.call_soon_threadsafe(self.stop, Stop.LOST)

    def expire(self) -> None:
        """Stop because the lease could not be renewed: the task may soon be another's. From any thread."""
        self.context.mark_lost()
        self._loop.call_soon_threadsafe(self.stop, Stop.EXPIRED)

    def ask_to_cancel(self) -> None:
        """Stop because a client asked for it. From any thread."""
        self._loop.call_soon_threadsafe(self.stop, Stop.CANCEL)

    async def execute(self, settler: Settler) -> None:
        """Run the function and settle the record; an error of the function is an outcome, not an exception."""
        correlation_id.set(self.claim.correlation_id)
        structlog.contextvars.bind_contextvars(
            correlation_id=self.claim.correlation_id,
            task=self.claim.name,
            task_id=str(self.claim.id),
            attempt=self.claim.attempt,
        )
        logger.info("task started")
        begun = time.monotonic()
        outcome = await self._call()
        try:
            counted = outcome is not None and await settler.settle(self.pair, outcome)
        except Exception as error:
            if not isinstance(outcome, Completed):
                raise
            # What the task wrote was refused at the commit: the attempt has failed after all.
            outcome = after_failure(self._task, self.claim, error)
            counted = await settler.settle(self.pair, outcome)
        word = type(outcome).__name__.lower() if counted else "lost to another worker"
        logger.info(f"task {word}", seconds=round(time.monotonic() - begun, 3))

    async def wait_for_threads(self) -> None:
        """Wait for threads that went on after their task was stopped: they still take a worker's room."""
        while self.context.running_threads:
            await asyncio.wait(self.context.running_threads)

    async def _call(self) -> Outcome | None:
        """Run the function to its end. Returns what to settle, or None if the task is not this run's any more."""
        self._function = asyncio.create_task(self._invoke())
        if self._stopped is not None:
            self._function.cancel()
        await asyncio.wait([self._function])
        function, self._function = self._function, None
        error = asyncio.CancelledError() if function.cancelled() else function.exception()
        if error is None:
            try:
                return self._completion(function.result())
            except Exception as refused:
                error = refused
        await self.context.abandon()
        if self._stopped is Stop.LOST or isinstance(error, LeaseLost):
            return None
        if self._stopped is Stop.EXPIRED:
            logger.warning("task stopped, its lease could not be renewed")
            return Released()  # which counts if nobody has taken over
        if self._stopped is Stop.CANCEL:
            return Cancelled()
        if self._stopped is Stop.SHUTDOWN and isinstance(error, asyncio.CancelledError):
            return Released()
        return after_failure(self._task, self.claim, error)

    async def _invoke(self) -> Any:
        try:
            payload = self._task.payload.validate_json(json.dumps(self.claim.payload))
        except ValidationError as error:
            raise PayloadMismatch(f"The payload does not fit {self._task.name} any more.") from error
        try:
            async with asyncio.timeout(self._task.timeout) as deadline:
                return await self._enter(payload)
        except TimeoutError as error:
            if deadline.expired():
                raise TaskTimedOut(f"The task ran longer than {self._task.timeout:g} s.") from error
            raise
        except SystemExit as error:
            raise RuntimeError("the task called sys.exit()") from error

    async def _enter(self, payload: Any) -> Any:
        if self._task.is_async:
            return await self._task.function(self.context, payload)
        if self._task.run_in == "process":
            return await process.call_task(self._task, self.context, payload)
        return await self.context.in_thread(self._task.function, self.context, payload)

    def _completion(self, result: Any) -> Completed:
        """Check the result before it is stored. Raises UnstorableResult, or TransactionTooLong."""
        self.context.check_transaction()
        try:
            data = self._task.result.dump_python(result, mode="json", by_alias=True, warnings="error")
        except ValueError as error:  # pydantic's own errors are of this kind
            raise UnstorableResult(f"The result does not fit its type: {error}") from error
        if (problem := unstorable(data, self._task.result, result)) is not None:
            raise UnstorableResult(f"The result cannot be stored: {problem}.")
        return Completed(data, self.context.effects, self.context.children)


def after_failure(task: Task[Any, Any], claim: Claim, error: BaseException) -> Outcome:
    """Decide what follows a failed attempt: another one, or the end."""
    description = describe(error)
    kinds = (*task.retry_on, TaskRetry, TaskTimedOut)
    if isinstance(error, SQLAlchemyError) and is_unavailable(error):
        kinds = (*kinds, SQLAlchemyError)  # an outage of the service's own database is never the task's fault
    final = isinstance(error, (TaskFailed, UnstorableResult, PayloadMismatch))
    if final or not should_retry(error, attempt=claim.attempt, max_attempts=claim.max_attempts, retry_on=kinds):
        logger.error("task failed for good", error=description, exc_info=error)
        return Failed(description, follow_up(task, claim, description))
    delay = error.after if isinstance(error, TaskRetry) else None
    if delay is None:
        delay = task.retry.delay(claim.attempt, random.random())  # noqa: S311 (jitter is no secret)
    logger.warning("attempt failed, another follows", error=description, seconds=round(delay, 3), exc_info=error)
    return Retried(description, delay)


def describe(error: BaseException) -> dict[str, str]:
    """Return what the record says of an error.

    The text of an unexpected error stays in the worker's log: it may hold secrets, and clients read the record.
    """
    match error:
        case TaskTimedOut():
            return {"type": "timeout", "message": str(error)}
        case UnstorableResult():
            return {"type": "unstorable_result", "message": str(error)[:MESSAGE_LENGTH]}
        case PayloadMismatch():
            return {"type": "payload_mismatch", "message": str(error)}
        case TaskRetry():
            return {"type": "retry", "message": "The task asked for another attempt."}
        case TaskFailed():
            return {"type": type(error).__name__, "message": storable(str(error)[:MESSAGE_LENGTH])}
        case _:
            message = "The task raised an error; the worker's log has it under the task's id."
            return {"type": type(error).__name__, "message": message}
