"""Schedules driven by Celery beat, a process of its own; with several of them each firing still happens once."""

import asyncio
from typing import Any

import celery.app.amqp  # noqa: F401 - Celery would import it late, where a SIGTERM finds it half there
from celery.beat import Scheduler as BeatScheduler

from app.database import Database
from app.queues import create_queue
from app.settings import Settings, get_settings
from app.tasks import Submitter
from app.tasks.scheduling import TICK_SECONDS, Scheduler


class TickingScheduler(BeatScheduler):
    """Celery beat's scheduler, which each second looks at what is due, too.

    Entries of your own in Celery's `beat_schedule` work as well, as Celery's do: two beats fire them twice.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Opens nothing: on a SIGTERM meanwhile Celery's handler makes a second scheduler, only to close it.
        self._driver: Driver | None = None
        self._ticking = False
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Submit what is due. Returns the seconds until the next tick."""
        self._ticking = True
        try:
            if self._driver is None:
                self._driver = Driver(get_settings())
            self._driver.tick()
        finally:
            self._ticking = False
        longest: float = super().tick(*args, **kwargs)
        return min(TICK_SECONDS, longest)

    def close(self) -> None:
        """Close all connections. Celery calls it from a signal handler too, within a tick, and then again."""
        if self._ticking:
            return
        super().close()
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()


class Driver:
    """What a tick needs, on an event loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._queue = create_queue(settings)
        self._database = Database(settings.database_url.get_secret_value(), pool_size=2)
        self._submitter = Submitter(self._database, self._queue)
        self._scheduler = Scheduler(self._database, self._submitter, paused=settings.schedules_paused)

    def tick(self) -> None:
        """Submit what is due."""
        self._loop.run_until_complete(self._scheduler.tick())

    def close(self) -> None:
        """Close all connections."""
        self._scheduler.close()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        await self._submitter.close()
        await self._queue.close()
        await self._database.close()
