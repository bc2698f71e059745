"""Schedules driven by APScheduler in the API: in any number of processes each firing happens once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.database import Database
from app.settings import Settings
from tests.scheduling.api_process import ApiProcess
from tests.scheduling.counting import assert_each_happened_once, firings, report, wait_for_firings, wait_for_the_end
from tests.support.processes import ServiceProcess, WorkerProcess


@pytest.fixture
def start_scheduler(awake: Settings, tmp_path: Path, started: list[ServiceProcess]) -> Callable[..., ApiProcess]:
    """Starts a real process of the API that fires the tests' schedule."""

    def start(settings: Settings = awake) -> ApiProcess:
        process = ApiProcess(settings, tmp_path / f"scheduler-{len(started)}.log")
        started.append(process)
        process.wait_for("startup complete")
        return process

    return start


async def test_with_two_processes_one_of_them_killed_each_firing_happens_once(
    start_scheduler: Callable[..., ApiProcess], start_worker: Callable[..., WorkerProcess], database: Database
) -> None:
    workers = [start_worker(), start_worker()]
    first, second = start_scheduler(), start_scheduler()
    await wait_for_firings(database, 5)
    first.kill()
    await wait_for_firings(database, 3)
    third = start_scheduler()
    await wait_for_firings(database, 3)
    records = await wait_for_the_end(database)
    for process in second, third, *workers:
        process.stop()
    await assert_each_happened_once(database, records)
    report("APScheduler", records, [process.log for process in (first, second, third)])


async def test_a_paused_process_fires_nothing(
    start_scheduler: Callable[..., ApiProcess], awake: Settings, database: Database
) -> None:
    process = start_scheduler(awake.model_copy(update={"schedules_paused": True}))
    process.stop()
    assert '"fired": 0' in process.log
    assert await firings(database) == []
