"""What PostgreSQL does in its own way: row locks, and transactions that a refused statement has ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.database import Connection, Database, is_unavailable
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskContext, TaskRecord, store, task
from app.tasks.heartbeat import Heartbeat
from tests.support.inline import TaskRunner
from tests.support.records import LATER, change, read, submit_all
from tests.support.runs import BeatingRun
from tests.support.sample_tasks import AT_ONCE, add
from tests.support.waiting import PATIENCE_SECONDS, until


@pytest.fixture
async def task_id(submitter: Submitter) -> UUID:
    """A task that waits."""
    [task_id] = await submit_all(submitter, add, [[1]])
    return task_id


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Database]:
    """A process whose transactions are rolled back soon once it falls silent."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1, patience=3.0)
    yield database
    await database.close()


async def can_be_claimed(database: Database, task_id: UUID) -> bool:
    """Claim a task if nothing is in the way."""
    async with asyncio.timeout(PATIENCE_SECONDS), database.begin() as connection:
        return bool(
            await store.claim(
                connection,
                [task_id],
                known=["sample.add"],
                worker="me",
                token=uuid4(),
                lease=60.0,
                may_take_suspect=True,
            )
        )


async def lock(connection: Connection, task_id: UUID) -> None:
    """Hold a record as somebody does who is about to change it."""
    await connection.execute(select(TaskRecord.id).where(TaskRecord.id == task_id).with_for_update())


async def test_a_row_that_refers_to_a_record_does_not_hide_it(task_id: UUID, database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE invoices (task_id uuid REFERENCES tasks (id))"))
    async with database.begin() as connection:
        await connection.execute(text("INSERT INTO invoices VALUES (:id)"), {"id": task_id})
        assert await can_be_claimed(database, task_id)


async def test_a_run_whose_record_is_locked_at_the_moment_is_not_lost(
    settings: Settings, task_id: UUID, database: Database
) -> None:
    await change(database, task_id, status="running", fence=1, attempt=1, lease_expires_at=LATER)
    run = BeatingRun((task_id, 1))
    begun = run.renewed_at
    heartbeat = Heartbeat(settings.database_url.get_secret_value(), 9.0, lambda: [run])
    async with database.begin() as connection:
        await lock(connection, task_id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heartbeat._beat(database, [run])
        assert (run.is_lost, run.renewed_at) == (False, begun)
    before = time.monotonic()
    await heartbeat._beat(database, [run])
    assert not run.is_lost
    assert run.renewed_at >= before


async def test_a_process_that_falls_silent_within_a_transaction_holds_a_record_only_for_a_while(
    task_id: UUID, database: Database, other: Database
) -> None:
    async with other.engine.connect() as silent:
        await silent.begin()
        await lock(silent, task_id)
        assert not await can_be_claimed(database, task_id)
        await until(lambda: can_be_claimed(database, task_id))
        with pytest.raises(DBAPIError):
            await silent.execute(select(1))
    assert (await read(database, task_id)).fence == 1


async def test_the_server_notices_a_client_that_is_gone(database: Database) -> None:
    names = ["idle_in_transaction_session_timeout", "tcp_keepalives_idle", "tcp_keepalives_count"]
    async with database.read() as session:
        values = {name: await session.scalar(select(func.current_setting(name))) for name in names}
    assert values == dict(zip(names, ["1min", "10", "3"], strict=True))


@pytest.mark.parametrize(
    ("refused", "value"),
    [
        ("SELECT 1 / CAST(:value AS integer)", 0),
        ("SELECT CAST(:value AS integer)", 2**40),
        ("SELECT CAST(:value AS text)", "a NUL: \0"),
        ("SELECT CAST(:value AS uuid)", "none"),
        ("DO $$ BEGIN RAISE EXCEPTION 'no' ; END $$", None),
    ],
)
async def test_a_value_that_is_refused_is_no_outage(refused: str, value: Any, database: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with database.begin() as connection:
            await connection.execute(text(refused), {"value": value} if ":value" in refused else {})
    assert not is_unavailable(raised.value)


async def test_a_task_that_goes_on_after_a_refused_write_fails_and_does_not_run_for_ever(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.goes_on", max_attempts=2, retry_on=(DBAPIError,), retry=AT_ONCE)
    async def go_on(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            with suppress(IntegrityError):
                await session.execute(text("INSERT INTO tasks (id) VALUES (NULL)"))

    await submitter.submit(NewTask.of(go_on, None))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.fence) == ("failed", 2, 2)


async def test_an_outage_is_followed_by_another_attempt_whatever_the_task_retries_on(
    submitter: Submitter, run_tasks: TaskRunner, without_database: Settings
) -> None:
    away = Database(without_database.database_url.get_secret_value(), pool_size=1, patience=0.1)

    @task(name="test.meets_outage", max_attempts=3, retry_on=(KeyError,), retry=AT_ONCE)
    async def meet_outage(context: TaskContext, _payload: None) -> int:
        async with (context if context.attempt == 3 else away).read() as session:
            return int((await session.execute(select(1))).scalar_one())

    await submitter.submit(NewTask.of(meet_outage, None))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.result) == ("completed", 3, 1)
    await away.close()


async def test_what_is_one_statement_leaves_no_transaction_open(database: Database) -> None:
    async with database.begin_one() as connection, database.read() as session:
        process = await connection.scalar(text("SELECT pg_backend_pid()"))
        state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
        assert await session.scalar(state, {"pid": process}) == "idle"
