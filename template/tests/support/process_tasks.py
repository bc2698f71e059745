"""Tasks that run in processes; kept apart, because every new process imports this file."""

import os
import time
from pathlib import Path
from typing import Any

from app.tasks import RetryPolicy, TaskContext, TaskFailed, task


class OwnError(Exception):
    """An error of the task's own."""


@task(
    name="processes.run",
    run_in="process",
    max_attempts=2,
    retry=RetryPolicy(first=0.01, longest=0.01),
    retry_on=(OwnError,),
)
def run(context: TaskContext, what: str) -> Any:
    """Do what is asked for, and return who did it."""
    if what == "raise" or (what == "raise once" and context.attempt == 1):
        raise OwnError("secret: hunter2")
    if what == "refuse":
        raise TaskFailed("line 7 has no price")
    if what == "ask again" and context.attempt == 1:
        context.retry(after=0)
    if what == "die":
        os._exit(3)
    if what == "read the database":
        return context.read()
    return [os.getpid(), context.attempt, str(context.task_id), context.name, context.lost]


@task(name="processes.overrun", run_in="process", max_attempts=1, timeout=3)
def overrun(_context: TaskContext, seconds: float) -> None:
    """Take longer than allowed."""
    time.sleep(seconds)


@task(name="processes.stay", run_in="process")
def stay(_context: TaskContext, path: str) -> None:
    """Write down which process this is, and stay there."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def double(number: int, *, plus: int = 0) -> list[int]:
    """Compute, and tell where."""
    return [number * 2 + plus, os.getpid()]
