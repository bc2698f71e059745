"""The heartbeat: often enough, from before the statement, and a run that it cannot renew is stopped in time."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from app.database import Database
from app.settings import Settings
from app.tasks import NewTask, Submitter
from app.tasks.heartbeat import Heartbeat, interval, margin
from tests.support.inline import TaskRunner
from tests.support.outage import hold_still
from tests.support.records import LATER, change, read, submit_all
from tests.support.runs import BeatingRun
from tests.support.sample_tasks import add, wait_for_file
from tests.support.waiting import PATIENCE_SECONDS, until


def heartbeat(settings: Settings, lease: float, runs: Sequence[BeatingRun]) -> Heartbeat:
    """Return a heartbeat for these runs, as long as they are not stopped."""
    url = settings.database_url.get_secret_value()
    return Heartbeat(url, lease, lambda: [run for run in runs if not run.expired_at])


@pytest.mark.parametrize("lease", [0.3, 1.0, 15.0, 3600.0])
def test_three_beats_may_be_missed_before_a_worker_gives_a_task_up(lease: float) -> None:
    assert 4 * interval(lease) < lease - margin(lease)
    assert margin(lease) == min(2, lease / 4)


async def test_a_run_that_cannot_be_renewed_is_stopped(settings: Settings, database: Database) -> None:
    lease = 1.2
    run = BeatingRun((uuid4(), 1))
    beating = heartbeat(settings, lease, [run])
    begun = run.renewed_at
    async with database.begin() as connection:
        await hold_still(connection)
        beating.start()
        await until(lambda: run.expired_at > 0)
    assert run.expired_at - begun > lease - margin(lease)
    assert not run.is_lost  # as far as is known
    await asyncio.to_thread(beating.stop)


async def test_a_run_is_stopped_in_time_although_the_heartbeat_still_waits(
    settings: Settings, database: Database
) -> None:
    lease = 120.0
    run = BeatingRun((uuid4(), 1))
    begun = time.monotonic()
    run.renewed_at = begun - (lease - margin(lease)) + 0.2
    async with database.begin() as connection:
        await hold_still(connection)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heartbeat(settings, lease, [run])._beat_in_time(database, [run])
    assert 0.1 < run.expired_at - begun < lease / 6


async def test_a_run_that_expired_hands_its_task_back_unused(
    submitter: Submitter, run_tasks: TaskRunner, database: Database, tmp_path: Path
) -> None:
    accepted = await submitter.submit(NewTask.of(wait_for_file, str(tmp_path / "gate")))
    delivering = asyncio.create_task(run_tasks.deliver())
    executor = run_tasks.worker.executor
    await until(lambda: len(executor.list_runs()) == 1)
    executor.list_runs()[0].expire()
    assert executor.list_runs() == []  # its lease is not renewed any more
    await delivering
    record = await read(database, accepted.id)
    assert (record.status, record.attempt, record.crashes) == ("pending", 0, 0)
    assert run_tasks.queue.sent == [accepted.id]


async def test_a_renewal_counts_from_before_its_statement(
    settings: Settings, submitter: Submitter, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    await change(database, task_id, status="running", fence=1, attempt=1, lease_expires_at=LATER)
    run = BeatingRun((task_id, 1))
    before = run.renewed_at
    async with database.begin() as connection:
        await hold_still(connection)
        beat = asyncio.create_task(heartbeat(settings, 9.0, [run])._beat(database, [run]))
        await asyncio.sleep(0.05)  # it has begun, and waits
        held_until = time.monotonic()
    await beat
    assert before < run.renewed_at < held_until
    assert not run.is_lost
