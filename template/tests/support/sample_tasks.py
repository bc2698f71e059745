"""Tasks that do what a test needs: succeed, fail, wait, write."""

import asyncio
import os
import time
from uuid import UUID

from sqlalchemy import text

from app.tasks import RetryPolicy, TaskContext, TaskFailed, task

AT_ONCE = RetryPolicy(first=0.01, longest=0.01, jitter=0)


class TemporaryError(Exception):
    """Something that may go well the next time."""


@task(name="sample.add")
async def add(_context: TaskContext, numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


@task(name="sample.wait")
async def wait(context: TaskContext, seconds: float) -> str:
    """Wait, and return which attempt did."""
    await context.progress(0.5, "waiting")
    await asyncio.sleep(seconds)
    return f"attempt {context.attempt}"


@task(name="sample.wait_for_file", timeout=60)
async def wait_for_file(context: TaskContext, path: str) -> str:
    """Wait until there is a file, and return which attempt saw it."""
    while not await context.in_thread(os.path.exists, path):  # noqa: ASYNC110 (another process makes it)
        await asyncio.sleep(0.02)
    return f"attempt {context.attempt}"


@task(name="sample.block", timeout=0.3, max_attempts=1)
def block(context: TaskContext, seconds: float) -> bool:
    """Block a thread, looking whether the task is lost; return whether it was."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not context.lost:
        time.sleep(0.01)
    return context.lost


@task(name="sample.block_until_file", timeout=0.2, max_attempts=1)
def block_until_file(_context: TaskContext, path: str) -> None:
    """Block a thread until there is a file, whatever the context says."""
    while not os.path.exists(path):
        time.sleep(0.02)


@task(name="sample.fail_until", max_attempts=3, retry=AT_ONCE, retry_on=(TemporaryError,))
async def fail_until(context: TaskContext, attempt: int) -> int:
    """Fail with a temporary error before that attempt."""
    if context.attempt < attempt:
        raise TemporaryError("secret: hunter2")
    return context.attempt


@task(name="sample.break", max_attempts=3, retry=AT_ONCE, retry_on=(TemporaryError,))
async def break_down(_context: TaskContext, _payload: None) -> None:
    """Fail with an error that is not retried."""
    raise ZeroDivisionError("secret: hunter2")


@task(name="sample.refuse")
async def refuse(_context: TaskContext, reason: str) -> None:
    """Fail for good, on purpose."""
    raise TaskFailed(reason)


@task(name="sample.ask_again", max_attempts=2)
async def ask_again(context: TaskContext, after: float) -> int:
    """Ask for another attempt in the first one."""
    if context.attempt == 1:
        context.retry(after=after)
    return context.attempt


@task(name="sample.overrun", timeout=0.1, max_attempts=2, retry=AT_ONCE)
async def overrun(_context: TaskContext, seconds: float) -> None:
    """Take longer than allowed."""
    await asyncio.sleep(seconds)


@task(name="sample.write", max_attempts=2, retry=AT_ONCE)
async def write(context: TaskContext, fail_on_attempt: int) -> int:
    """Write a row in the final transaction, and fail after it in one attempt."""
    async with context.transaction() as session:
        await session.execute(
            text("INSERT INTO task_schedules (name, last_fire_at) VALUES (:name, CURRENT_TIMESTAMP)"),
            {"name": f"effect-{context.attempt}"},
        )
    if context.attempt == fail_on_attempt:
        raise TemporaryError
    return context.attempt


@task(name="sample.parent", max_attempts=2, retry=AT_ONCE)
async def parent(context: TaskContext, fail_on_attempt: int) -> str:
    """Submit a child, and fail after it in one attempt."""
    child: UUID = await context.submit(add, [context.attempt])
    if context.attempt == fail_on_attempt:
        raise TemporaryError
    return str(child)
