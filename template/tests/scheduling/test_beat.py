"""Schedules driven by Celery beat: with two of them each firing happens once, and one is enough."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from app.database import Database
from app.settings import Settings
from app.tasks.scheduling import TICK_SECONDS
from scripts.processes import beat_command
from tests.scheduling.counting import assert_each_happened_once, firings, report, wait_for_firings, wait_for_the_end
from tests.support.processes import ServiceProcess, WorkerProcess


@pytest.fixture
def start_beat(
    awake: Settings, tmp_path: Path, started: list[ServiceProcess], live_broker: None
) -> Callable[..., ServiceProcess]:
    """Starts a real beat that fires the tests' schedule."""

    def start(settings: Settings = awake) -> ServiceProcess:
        log = tmp_path / f"beat-{len(started)}.log"
        beat = ServiceProcess(beat_command("tests.scheduling.worker"), settings, log)
        started.append(beat)
        return beat

    return start


async def test_with_two_beats_one_of_them_killed_each_firing_happens_once(
    start_beat: Callable[..., ServiceProcess],
    start_worker: Callable[..., WorkerProcess],
    awake: Settings,
    database: Database,
) -> None:
    start_worker(awake)
    start_worker(awake)
    first, second = start_beat(), start_beat()
    await wait_for_firings(database, 5)
    first.kill()
    await wait_for_firings(database, 3)
    third = start_beat()
    third.wait_for("Starting")
    await wait_for_firings(database, 3)
    assert [beat.stop() for beat in (second, third)] == [0, 0], third.log
    records = await wait_for_the_end(database)
    await assert_each_happened_once(database, records)
    report("beat", records, [beat.log for beat in (first, second, third)])


async def test_a_paused_beat_fires_nothing(
    start_beat: Callable[..., ServiceProcess], awake: Settings, database: Database
) -> None:
    beat = start_beat(awake.model_copy(update={"schedules_paused": True}))
    beat.wait_for("schedules are paused")
    await asyncio.sleep(TICK_SECONDS)  # it says so while it still makes what it closes at the end
    assert beat.stop() == 0, beat.log
    assert '"fired": 0' in beat.log
    assert await firings(database) == []


async def test_a_beat_that_is_stopped_while_it_starts_ends_well(start_beat: Callable[..., ServiceProcess]) -> None:
    beats = [start_beat() for _ in range(3)]
    for beat in beats:
        beat.wait_for("Starting")
        assert beat.stop() == 0, beat.log
        assert "raised exception" not in beat.log
