"""Schedules driven by the workers: each looks every second at what is due, and each firing still happens once."""

from app.tasks.loop import Loop
from app.tasks.scheduling import TICK_SECONDS, Scheduler


class Ticker:
    """Ticks in a worker's event loop, for as long as the worker lives.

    It needs the database only: while the broker is down, what is due is recorded all the same and runs later. It waits
    by a clock that cannot be set, and whether something is due is the database's to say.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._loop = Loop(scheduler.tick, TICK_SECONDS)

    def start(self) -> None:
        """Begin, in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop after the tick under way; one that takes too long is cut off."""
        await self._loop.stop()
        self._scheduler.close()
