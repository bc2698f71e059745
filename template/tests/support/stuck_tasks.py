"""Tasks that no timeout can stop: one sleeps in a thread, the other on the event loop."""

import time

from app.tasks import TaskContext, task


@task(name="stuck.sleep_in_thread", timeout=0.5, max_attempts=1)
def sleep_in_thread(_context: TaskContext, seconds: float) -> None:
    """Sleep, whatever the timeout says."""
    time.sleep(seconds)


@task(name="stuck.sleep_on_loop", timeout=0.5, max_attempts=1)
async def sleep_on_loop(_context: TaskContext, seconds: float) -> None:
    """Block the event loop, which then cannot time the task out."""
    time.sleep(seconds)  # noqa: ASYNC251 (that is the mistake)
