"""The recovery loop: when it may take tasks from others, and when it deletes old records."""

import asyncio
import time
from uuid import UUID

import pytest
from sqlalchemy import update

from app.database import Database, now, plus
from app.settings import Settings
from app.tasks import Submitter, TaskRecord, recovery
from app.tasks.heartbeat import interval
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.outage import hold_still
from tests.support.records import LATER, LONG_AGO, change, read, read_all, submit_all
from tests.support.sample_tasks import add
from tests.support.waiting import until


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The test's settings, with a short lease."""
    return settings.model_copy(update={"task_lease_seconds": 1.5})


async def test_a_worker_that_has_just_seen_the_database_reclaims_nothing(
    submitter: Submitter, run_tasks: TaskRunner, database: Database, settings: Settings
) -> None:
    held, expired = await submit_all(submitter, add, [[1], [2]])
    dead = {"status": "running", "worker": "dead", "fence": 1, "attempt": 1}
    await change(database, held, lease_expires_at=LATER, **dead)
    await change(database, expired, lease_expires_at=LONG_AGO, **dead)
    begun = time.monotonic()
    run_tasks.worker.recovery.start()

    async def is_reclaimed() -> bool:
        return (await read(database, expired)).crashes == 1

    await until(is_reclaimed)
    # After an outage others beat first: their leases have run out too.
    assert time.monotonic() - begun > interval(settings.task_lease_seconds) + 1
    assert (await read(database, held)).worker == "dead"
    assert (await read(database, held)).status == "running"


async def test_after_a_database_stood_still_the_healthy_beat_before_anything_is_reclaimed(
    submitter: Submitter, run_tasks: TaskRunner, database: Database, settings: Settings
) -> None:
    before, meanwhile = await submit_all(submitter, add, [[1], [2]])
    expired = {"status": "running", "worker": "silent", "fence": 1, "attempt": 1, "lease_expires_at": LONG_AGO}
    await change(database, before, **expired)
    run_tasks.worker.recovery.start()

    async def is_reclaimed(task_id: UUID) -> bool:
        return (await read(database, task_id)).crashes == 1

    await until(lambda: is_reclaimed(before))  # it has seen the database for long enough
    async with database.begin() as connection:
        await hold_still(connection)
        await connection.execute(update(TaskRecord).where(TaskRecord.id == meanwhile).values(expired))
        await asyncio.sleep(settings.task_lease_seconds * 2)  # nobody gets an error, and nobody can beat
        begun = time.monotonic()
    await until(lambda: is_reclaimed(meanwhile))
    assert time.monotonic() - begun > interval(settings.task_lease_seconds) + 1


async def test_old_records_are_deleted_once_in_a_while_all_of_them(
    settings: Settings,
    submitter: Submitter,
    queue: InlineQueue,
    run_tasks: TaskRunner,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    *old, young = await submit_all(submitter, add, ([number] for number in range(6)))
    await run_tasks()
    [waiting] = await submit_all(submitter, add, [[1]])
    too_old = plus(now(), -settings.task_retention_days * 86_400 - 60)
    for task_id in old:
        await change(database, task_id, finished_at=too_old)
    await change(database, waiting, created_at=too_old)
    monkeypatch.setattr(recovery, "BATCH", 3)
    await run_tasks.worker.recovery.tick()
    assert len(await read_all(database)) == 7  # it is not time yet

    monkeypatch.setattr(recovery, "PURGE_SECONDS", 0)
    later = TaskRunner(settings, database, queue)
    monkeypatch.setattr(recovery, "PURGE_SECONDS", 600)
    await later.worker.recovery.tick()
    assert len(await read_all(database)) == 4  # a batch in each step, until there is no more
    await later.worker.recovery.tick()
    assert [record.id for record in await read_all(database)] == [young, waiting]
    await later.worker.stop()
