"""Schedules driven by the workers: in any number of them each firing happens once, and one is enough."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from app.database import Database
from app.schedulers import cron
from app.schedulers.cron import Ticker
from app.settings import Settings
from app.tasks.scheduling import Scheduler
from tests.scheduling.counting import assert_each_happened_once, firings, report, wait_for_firings, wait_for_the_end
from tests.support.processes import ServiceProcess, WorkerProcess
from tests.support.waiting import PATIENCE_SECONDS

MODULE = "tests.scheduling.worker"


@pytest.fixture
def start_scheduler(awake: Settings, tmp_path: Path, started: list[ServiceProcess]) -> Callable[..., WorkerProcess]:
    """Starts a real worker that fires the tests' schedule."""

    def start(settings: Settings = awake) -> WorkerProcess:
        worker = WorkerProcess(settings, tmp_path / f"scheduler-{len(started)}.log", module=MODULE)
        started.append(worker)
        worker.wait_for("worker started")
        return worker

    return start


async def test_with_two_workers_one_of_them_killed_each_firing_happens_once(
    start_scheduler: Callable[..., WorkerProcess], database: Database
) -> None:
    first, second = start_scheduler(), start_scheduler()
    await wait_for_firings(database, 5)
    first.kill()
    await wait_for_firings(database, 3)
    third = start_scheduler()
    await wait_for_firings(database, 3)
    records = await wait_for_the_end(database)
    assert {worker.stop() for worker in (second, third)} == {0}
    await assert_each_happened_once(database, records)
    report("workers", records, [worker.log for worker in (first, second, third)])


async def test_a_paused_worker_fires_nothing(
    start_scheduler: Callable[..., WorkerProcess], awake: Settings, database: Database
) -> None:
    worker = start_scheduler(awake.model_copy(update={"schedules_paused": True}))
    assert worker.stop() == 0
    assert '"fired": 0' in worker.log
    assert await firings(database) == []


async def test_ticking_stops_although_a_driver_raises_something_in_place_of_a_cancellation(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cron, "STOP_SECONDS", 0.1)
    begun = asyncio.Event()

    async def wait_for_the_database() -> None:
        is_first = not begun.is_set()
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if is_first:
                raise ConnectionError("the connection was closed meanwhile") from None
            raise

    monkeypatch.setattr(scheduler, "fire_due", wait_for_the_database)
    ticker = Ticker(scheduler)
    ticker.start()
    await begun.wait()
    stopping = asyncio.create_task(ticker.stop())
    await asyncio.wait([stopping], timeout=PATIENCE_SECONDS / 6)
    assert stopping.done()


async def test_a_tick_under_way_ends_before_the_ticking_stops(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fire_due() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    monkeypatch.setattr(scheduler, "fire_due", fire_due)
    ticker = Ticker(scheduler)
    ticker.start()
    await begun.wait()
    stopping = asyncio.create_task(ticker.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert ended.is_set()
