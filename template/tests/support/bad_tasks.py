"""Tasks for bad days: they kill their worker, hold up its loop, and leave a trace of every run that counts."""

import os
import signal
import threading
from uuid import uuid4

import anyio
from sqlalchemy import text

from app.tasks import RetryPolicy, TaskContext, task

go_on = threading.Event()


async def leave_trace(context: TaskContext) -> None:
    """Write a row in the task's transaction; every run that takes effect leaves one of its own."""
    async with context.transaction() as session:
        await session.execute(
            text("INSERT INTO task_schedules (name, last_fire_at) VALUES (:name, CURRENT_TIMESTAMP)"),
            {"name": f"{context.task_id} {uuid4()}"},
        )


@task(name="bad.effect", retry=RetryPolicy(first=0.1, longest=0.1))
async def effect(context: TaskContext, seconds: float) -> None:
    """Take some time, then write."""
    await anyio.sleep(seconds)
    await leave_trace(context)


@task(name="bad.effect_after_file")
async def effect_after_file(context: TaskContext, path: str) -> None:
    """Wait until there is a file, then write."""
    while not await context.in_thread(os.path.exists, path):  # noqa: ASYNC110 (another process makes it)
        await anyio.sleep(0.02)
    await leave_trace(context)


@task(name="bad.kill_worker")
async def kill_worker(_context: TaskContext, _payload: None) -> None:
    """Take the worker along, as a crash in a C library does."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="bad.hold_loop")
async def hold_loop(context: TaskContext, at_most: float) -> None:
    """Block the event loop until another thread lets it go on, then write."""
    go_on.wait(at_most)
    await leave_trace(context)


@task(name="bad.slow_queue", queue="slow")
async def on_slow_queue(_context: TaskContext, _payload: None) -> int:
    """Return which worker ran it, from a queue of its own."""
    return os.getpgrp()


@task(name="bad.default_queue")
async def on_default_queue(_context: TaskContext, _payload: None) -> int:
    """Return which worker ran it, from the usual queue."""
    return os.getpgrp()
