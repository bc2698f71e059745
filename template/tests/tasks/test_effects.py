"""Effects in the database: they are committed together with the completion, so they happen exactly once."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.tasks import NewTask, Submitter, TaskContext, task
from tests.support.inline import TaskRunner
from tests.support.records import change, effects, read, submit_all
from tests.support.sample_tasks import write
from tests.support.waiting import PATIENCE_SECONDS

INSERT = text("INSERT INTO task_schedules (name, last_fire_at) VALUES (:name, CURRENT_TIMESTAMP)")


async def insert(session: AsyncSession, name: str) -> None:
    """Write a row, as a task's effect."""
    await session.execute(INSERT, {"name": name})


async def test_effects_and_completion_become_visible_together(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    written, go_on = asyncio.Event(), asyncio.Event()

    @task(name="test.write")
    async def write_and_wait(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            await insert(session, "effect")
        written.set()
        await go_on.wait()

    accepted = await submitter.submit(NewTask.of(write_and_wait, None))
    running = asyncio.create_task(run_tasks.deliver())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await written.wait()
    assert (await read(database, accepted.id)).status == "running"
    assert await effects(database) == []
    go_on.set()
    await running
    assert (await read(database, accepted.id)).status == "completed"
    assert await effects(database) == ["effect"]


async def test_an_attempt_that_wrote_and_failed_has_no_effect(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    await submitter.submit(NewTask.of(write, 1))
    await run_tasks.deliver()
    assert await effects(database) == []
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("completed", 2)
    assert await effects(database) == ["effect-2"]


async def test_a_run_that_has_lost_its_task_has_no_effect(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.taken_over")
    async def taken_over(context: TaskContext, _payload: None) -> str:
        record = await read(database, context.task_id)
        await change(database, context.task_id, fence=record.fence + 1, worker="another")
        async with context.transaction() as session:
            await insert(session, "effect")
        return "mine"

    accepted = await submitter.submit(NewTask.of(taken_over, None))
    await run_tasks.deliver()
    record = await read(database, accepted.id)
    assert (record.status, record.worker, record.result) == ("running", "another", None)
    assert await effects(database) == []


async def commit(session: AsyncSession) -> None:
    """Commit as a session does."""
    await session.commit()


async def begin(session: AsyncSession) -> None:
    """Commit as a block does."""
    async with session.begin():
        await insert(session, "effect in a block")


async def run_sync(session: AsyncSession) -> None:
    """Commit behind the asynchronous session's back."""
    await session.run_sync(lambda inner: inner.commit())


@pytest.mark.parametrize("way", [commit, begin, run_sync])
async def test_a_task_cannot_commit_by_itself(
    way: Any, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.commit", max_attempts=1)
    async def commit_early(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            if way is not begin:
                await insert(session, "effect")
            await way(session)

    await submitter.submit(NewTask.of(commit_early, None))
    [record] = await run_tasks()
    assert (record.status, record.error["type"]) == ("failed", "RuntimeError")
    assert await effects(database) == []


async def test_a_savepoint_in_the_transaction_is_allowed(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.savepoint")
    async def try_twice(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            savepoint = await session.begin_nested()
            await insert(session, "undone")
            await savepoint.rollback()
            async with session.begin_nested():
                await insert(session, "kept")

    await submitter.submit(NewTask.of(try_twice, None))
    [record] = await run_tasks()
    assert record.status == "completed"
    assert await effects(database) == ["kept"]


@pytest.mark.parametrize("nested", [True, False])
async def test_a_task_has_one_transaction(
    nested: bool, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.two", max_attempts=1)
    async def open_two(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            await insert(session, "first")
            if nested:
                async with context.transaction():
                    pass
        async with context.transaction() as session:
            await insert(session, "second")

    await submitter.submit(NewTask.of(open_two, None))
    [record] = await run_tasks()
    assert (record.status, record.error["type"]) == ("failed", "RuntimeError")
    assert await effects(database) == []


async def test_writes_that_the_database_refuses_fail_the_attempt(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.double", max_attempts=1)
    async def write_twice(context: TaskContext, _payload: None) -> None:
        async with context.transaction() as session:
            await insert(session, "the same")
            await insert(session, "the same")

    await submitter.submit(NewTask.of(write_twice, None))
    [record] = await run_tasks()
    assert (record.status, record.error["type"]) == ("failed", "IntegrityError")
    assert await effects(database) == []


async def test_fifty_tasks_at_once_have_a_session_each_and_share_five_connections(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    sessions: list[AsyncSession] = []
    sizes: list[int] = []
    running = 0

    @task(name="test.own_session")
    async def own_session(context: TaskContext, number: int) -> int:
        nonlocal running
        running += 1
        sizes.append(running)
        async with context.read() as reading:
            seen = await reading.scalar(text("SELECT count(*) FROM task_schedules"))
        await asyncio.sleep(0)  # others go on here
        async with context.transaction() as session:
            sessions.extend([reading, session])
            await insert(session, f"effect-{number:02}")
        running -= 1
        return int(seen or 0)

    await submit_all(submitter, own_session, range(50))
    records = await run_tasks()
    assert [record.status for record in records] == ["completed"] * 50
    assert [record.attempt for record in records] == [1] * 50
    assert await effects(database) == [f"effect-{number:02}" for number in range(50)]
    assert len({id(session) for session in sessions}) == 100
    assert max(sizes) > 1
