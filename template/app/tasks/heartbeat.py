"""Keeping the leases of running tasks, from a thread of its own that a blocked event loop does not hold up."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from app.database import Database, is_unavailable
from app.tasks import store
from app.tasks.store import Pair
from app.telemetry import get_logger

logger = get_logger(__name__)

SHORTEST_WAIT_SECONDS = 0.05


def interval(lease: float) -> float:
    """Return the seconds between two heartbeats: several fit into a lease, so that one may be missed."""
    return lease / 6


def margin(lease: float) -> float:
    """Return how long before the end of its lease a worker stops a task that it could not renew."""
    return min(2.0, lease / 4)


class Beating(Protocol):
    """A run, as far as the heartbeat needs to know it."""

    renewed_at: float
    """By this process's monotonic clock, from before the statement that claimed or last renewed it."""

    @property
    def pair(self) -> Pair:
        """The task's id and the fence of its claim."""

    def lose(self) -> None:
        """Stop: the task is not this run's any more. Called from the heartbeat's thread."""

    def expire(self) -> None:
        """Stop, as the lease could not be renewed and may soon be another's. Called from the heartbeat's thread."""

    def ask_to_cancel(self) -> None:
        """Stop because a client asked for it. Called from the heartbeat's thread."""


class Heartbeat:
    """One thread that renews, in one statement, the leases of everything this process runs.

    `list_runs` returns what runs at the moment, without what was stopped; it is called from the thread.
    """

    def __init__(self, database_url: str, lease: float, list_runs: Callable[[], Sequence[Beating]]) -> None:
        self._url = database_url
        self._lease = lease
        self._list_runs = list_runs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin beating."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and wait for the last beat to end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        database = Database(self._url, pool_size=1, patience=self._lease / 3)
        wait = interval(self._lease)
        try:
            # The wait is on purpose in this thread: nothing else runs on its loop.
            while not self._stop.wait(wait):
                runs = self._list_runs()
                if runs:
                    await self._beat_in_time(database, runs)
                wait = max(SHORTEST_WAIT_SECONDS, min(interval(self._lease), self._time_left(self._list_runs())))
        finally:
            await database.close()

    async def _beat_in_time(self, database: Database, runs: Sequence[Beating]) -> None:
        """Beat, and stop what could not be renewed: in time, whatever the database does meanwhile."""
        beat = asyncio.create_task(self._beat(database, runs))
        await asyncio.wait({beat}, timeout=max(0.0, min(self._lease / 3, self._time_left(runs))))
        is_late = not beat.done()
        beat.cancel()
        self._stop_expired(runs)
        [error] = await asyncio.gather(beat, return_exceptions=True)
        if is_late or (error is not None and is_unavailable(error)):
            logger.warning("heartbeat missed, database unavailable", error=type(error or TimeoutError()).__name__)
        elif error is not None:
            logger.error("heartbeat failed", exc_info=error)

    async def _beat(self, database: Database, runs: Sequence[Beating]) -> None:
        begun = time.monotonic()
        pairs = [run.pair for run in runs]
        async with database.begin_one() as connection:
            renewed = await store.renew(connection, pairs, self._lease)
        missing = [run for run in runs if run.pair not in renewed]
        held: set[Pair] = set()
        if missing:  # settled just now, locked at the moment, or lost: the record tells
            async with database.read() as session:
                held = await store.still_held(session, [run.pair for run in missing])
        for run in runs:
            if run.pair in renewed:
                run.renewed_at = begun
                if renewed[run.pair]:
                    run.ask_to_cancel()
            elif run.pair not in held:
                run.lose()

    def _stop_expired(self, runs: Sequence[Beating]) -> None:
        for run in runs:
            if self._time_left([run]) <= 0:
                run.expire()

    def _time_left(self, runs: Sequence[Beating]) -> float:
        """Return how many seconds there are until the first of the runs must be stopped; without any, no end."""
        limit = self._lease - margin(self._lease)
        return min((run.renewed_at for run in runs), default=inf) + limit - time.monotonic()
