"""Schedules driven by the workers: in any number of them each firing happens once, and one is enough."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.database import Database
from app.settings import Settings
from tests.scheduling.counting import assert_each_happened_once, firings, report, wait_for_firings, wait_for_the_end
from tests.support.processes import ServiceProcess, WorkerProcess

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
