"""The database as the tasks rely on it: its time, its columns, and what counts as an outage."""

import asyncio

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.database import Database, is_unavailable, now
from app.settings import Settings
from app.tasks import NewTask, Submitter
from tests.support.records import change, count, submit_all
from tests.support.sample_tasks import add
from tests.support.waiting import PATIENCE_SECONDS


async def test_time_goes_on_within_a_transaction_and_within_a_second(database: Database) -> None:
    times = []
    async with database.begin() as connection:
        for _ in range(4):
            times.append(await connection.scalar(select(now())))
            await asyncio.sleep(0.01)
    assert len(set(times)) == 4


async def test_a_record_always_has_an_owner(submitter: Submitter, database: Database) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    with pytest.raises(IntegrityError):
        await change(database, task_id, owner=None)


async def test_those_who_read_do_not_wait_for_those_who_write(submitter: Submitter, database: Database) -> None:
    await submit_all(submitter, add, [[1]])
    reading = Database(database.engine.url.render_as_string(hide_password=False), pool_size=2, patience=5.0)
    async with database.session() as session, session.begin():
        await submitter.submit_with(NewTask.of(add, [2]), session)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await count(reading) == 1
    assert await count(reading) == 2
    await reading.close()


async def test_what_is_refused_is_no_outage(database: Database) -> None:
    for refused in "SELECT * FROM nowhere", "INSERT INTO tasks (id) VALUES (NULL)":
        with pytest.raises(DBAPIError) as raised:
            async with database.begin() as connection:
                await connection.execute(text(refused))
        assert not is_unavailable(raised.value)


async def test_a_database_that_cannot_be_reached_is_an_outage(without_database: Settings) -> None:
    away = Database(without_database.database_url.get_secret_value(), pool_size=1, patience=0.1)
    with pytest.raises(DBAPIError) as raised:
        async with away.begin() as connection:
            await connection.execute(text("SELECT 1"))
    assert is_unavailable(raised.value)
    await away.close()
