"""Submitting what is due: once for each firing, whoever else tries, whatever the clock does and whatever is missed."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete
from structlog.testing import capture_logs

from app.database import Database
from app.tasks import NewTask, Schedule, Submitter, TaskRecord
from app.tasks.new_task import IdempotencyKey
from app.tasks.scheduling import Scheduler, firing_key, read_last
from tests.scheduling.rows import HOUR, every_hour, last_of, set_last
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import read_all
from tests.support.sample_tasks import add

Declare = Callable[..., Schedule[Any]]


@pytest.fixture
def hourly(declare: Declare) -> Schedule[Any]:
    """A schedule that fires every hour."""
    return declare("hourly", every_hour(), add, [1, 2])


async def test_a_firing_is_a_task_of_nobody_and_is_sent(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    [firing] = await scheduler.fire_due()
    assert queue.sent == [firing.task_id]
    [record] = await run_tasks()
    assert (record.id, record.name, record.status, record.result) == (firing.task_id, "sample.add", "completed", 3)
    assert (record.owner, record.scope) == ("", "schedule")
    assert record.idempotency_key == firing_key("hourly", firing.fire_at)
    assert await last_of(database, "hourly") == firing.fire_at
    assert timedelta() <= record.created_at - firing.fire_at <= timedelta(hours=1)


async def test_a_new_schedule_starts_now(hourly: Schedule[Any], scheduler: Scheduler, database: Database) -> None:
    assert await scheduler.fire_due() == []
    started = await last_of(database, "hourly")
    assert started is not None
    assert started.microsecond != 0, "no firing has a fraction of a second"
    assert await scheduler.fire_due() == []
    assert await last_of(database, "hourly") == started
    assert await read_all(database) == []


async def test_of_many_that_were_missed_one_is_caught_up(
    declare: Declare, scheduler: Scheduler, database: Database
) -> None:
    declare("often", timedelta(seconds=1), add, [1])
    await set_last(database, "often", 100 * 24 * HOUR)
    [firing] = await scheduler.fire_due()
    async with database.read() as session:
        moment, _last = await read_last(session)
    assert moment - firing.fire_at < timedelta(minutes=1)
    assert len(await read_all(database)) == 1


async def test_beyond_its_grace_what_was_missed_is_not_caught_up(
    declare: Declare, scheduler: Scheduler, database: Database
) -> None:
    declare("rarely", timedelta(days=366), add, [1], grace=timedelta(minutes=1))
    await set_last(database, "rarely", 366 * 24 * HOUR)
    assert await scheduler.fire_due() == []
    assert await read_all(database) == []


async def test_of_many_that_try_at_once_one_fires(
    hourly: Schedule[Any], database: Database, submitter: Submitter, queue: InlineQueue
) -> None:
    schedulers = [Scheduler(database, submitter) for _ in range(8)]
    for _ in range(5):
        await set_last(database, "hourly", 2 * HOUR)
        async with database.begin() as connection:
            await connection.execute(delete(TaskRecord))  # nothing but the row says that it has fired
        queue.messages.clear()
        fired = await asyncio.gather(*(scheduler.fire_due() for scheduler in schedulers))
        assert len([firing for firings in fired for firing in firings]) == 1
        assert len(await read_all(database)) == len(queue.sent) == 1
    assert sum(scheduler.fired for scheduler in schedulers) == 5
    assert 0 <= sum(scheduler.refused for scheduler in schedulers) <= 5 * 7


async def test_a_firing_is_refused_to_whoever_decided_before_it(
    hourly: Schedule[Any], database: Database, submitter: Submitter, queue: InlineQueue
) -> None:
    """Both have seen that it is due; the second is late."""
    first, second = Scheduler(database, submitter), Scheduler(database, submitter)
    await set_last(database, "hourly", 2 * HOUR)
    async with database.read() as session:
        moment, last = await read_last(session)
    assert await first._fire(hourly, last["hourly"], moment, timedelta()) is not None
    assert await second._fire(hourly, last["hourly"], moment, timedelta()) is None
    assert (first.fired, first.refused, second.fired, second.refused) == (1, 0, 0, 1)
    assert len(await read_all(database)) == len(queue.sent) == 1


async def test_a_row_that_was_set_back_does_not_fire_again_what_is_recorded(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    [firing] = await scheduler.fire_due()
    await set_last(database, "hourly", 2 * HOUR)
    assert await scheduler.fire_due() == []
    assert await last_of(database, "hourly") == firing.fire_at
    assert scheduler.refused == 1


async def test_a_clock_that_was_set_back_fires_nothing_twice_and_is_told_once(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database
) -> None:
    await set_last(database, "hourly", -5 * HOUR)  # as it looks when the database's clock is five hours behind
    with capture_logs() as log:
        for _ in range(3):
            assert await scheduler.fire_due() == []
    assert [line["event"] for line in log] == ["schedule waits: its last firing lies ahead"]
    assert await read_all(database) == []


async def test_nothing_is_recorded_when_the_firing_cannot_be(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the row moves and the task is recorded, or neither; what goes wrong with one does not hold up others."""
    await set_last(database, "hourly", 2 * HOUR)
    before = await last_of(database, "hourly")
    object.__setattr__(hourly, "payload", "no list of numbers")
    with capture_logs() as log:
        await scheduler.tick()
    assert [line["event"] for line in log] == ["schedule could not be fired"]
    assert await last_of(database, "hourly") == before
    object.__setattr__(hourly, "payload", [1])
    assert len(await scheduler.fire_due()) == 1


async def test_a_lost_broker_changes_nothing_but_when_it_runs(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    queue.broken = True
    assert len(await scheduler.fire_due()) == 1
    queue.broken = False
    [record] = await run_tasks()
    assert record.status == "completed"


async def test_a_database_that_is_away_is_logged_and_tried_again(
    hourly: Schedule[Any], database: Database, submitter: Submitter, without_database: Any
) -> None:
    away = Database(without_database.database_url.get_secret_value(), pool_size=2)
    with capture_logs() as log:
        await Scheduler(away, submitter).tick()
    await away.close()
    assert [line["event"] for line in log] == ["database unavailable, schedules wait"]


async def test_what_is_not_enabled_and_what_is_paused_does_not_fire(
    declare: Declare, database: Database, submitter: Submitter
) -> None:
    declare("off", timedelta(hours=1), add, [1], enabled=False)
    await set_last(database, "off", 2 * HOUR)
    assert await Scheduler(database, submitter).fire_due() == []
    declare("on", every_hour(), add, [1])
    await set_last(database, "on", 2 * HOUR)
    assert await Scheduler(database, submitter, paused=True).fire_due() == []
    assert [firing.schedule.name for firing in await Scheduler(database, submitter).fire_due()] == ["on"]


async def test_a_client_cannot_take_a_firings_key(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database, submitter: Submitter
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    async with database.read() as session:
        moment, _last = await read_last(session)
    fire_at = hourly.timetable.latest(moment - timedelta(hours=1), moment)
    assert fire_at is not None
    key = firing_key("hourly", fire_at)
    for forged in key, IdempotencyKey("POST /schedules/{name}/run", key, ""):
        await submitter.submit(NewTask.of(add, [1], key=forged))
    assert len(await scheduler.fire_due()) == 1


async def test_the_record_of_a_firing_may_be_deleted_without_its_firing_again(
    hourly: Schedule[Any], scheduler: Scheduler, database: Database
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    assert len(await scheduler.fire_due()) == 1
    async with database.begin() as connection:
        await connection.execute(delete(TaskRecord))
    assert await scheduler.fire_due() == []
