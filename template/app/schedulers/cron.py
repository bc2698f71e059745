"""Schedules driven by the workers: each looks every second at what is due, and each firing still happens once."""

import asyncio
from contextlib import suppress

from app.tasks.scheduling import TICK_SECONDS, Scheduler

STOP_SECONDS = 5.0


class Ticker:
    """Ticks in a worker's event loop, for as long as the worker lives.

    It needs the database only: while the broker is down, what is due is recorded all the same and runs later. It waits
    by a clock that cannot be set, and whether something is due is the database's to say.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stopping = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop after the tick under way; one that takes too long is cut off."""
        self._stopping.set()
        if self._loop is not None:
            # Not by cancelling alone: a driver may raise an error in place of the cancellation, which is lost then.
            await asyncio.wait([self._loop], timeout=STOP_SECONDS)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._scheduler.close()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._scheduler.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_SECONDS)
