"""Schedules driven by APScheduler in every process of the API; a firing still happens once, in any number of them."""

import asyncio
import logging
from datetime import UTC

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from app.tasks.scheduling import TICK_SECONDS, Scheduler

MISFIRE_GRACE_SECONDS = 60
"""A tick that comes so much too late still counts; how late a firing may be is the schedule's own to say."""

logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it logs every tick, and every one that is left out


class Ticker:
    """Has APScheduler tick in this process' event loop: one tick at a time, and one for all that were missed.

    It holds no lock and asks for no leader: app.tasks.scheduling says why a firing happens once. Your own jobs may be
    added to `jobs`, but they run in every process of the API.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.jobs = AsyncIOScheduler(timezone=UTC)
        self._scheduler = scheduler
        self._ticking = asyncio.Lock()
        self.jobs.add_job(
            self._tick,
            IntervalTrigger(seconds=TICK_SECONDS, timezone=UTC),
            id="schedules",
            coalesce=True,
            max_instances=1,
            misfire_grace_time=MISFIRE_GRACE_SECONDS,
        )

    def start(self) -> None:
        """Begin, in the background."""
        self.jobs.start()

    async def stop(self) -> None:
        """Stop, and wait for the tick under way to end or to undo what it has begun."""
        self.jobs.shutdown(wait=False)
        await asyncio.sleep(0)  # it shuts down in the loop's next round
        async with self._ticking:
            self._scheduler.close()

    async def _tick(self) -> None:
        async with self._ticking:
            await self._scheduler.tick()
