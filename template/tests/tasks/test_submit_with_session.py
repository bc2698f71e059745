"""Submitting in the caller's transaction: the message goes out after that commits, or never."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from app.database import Database, Session
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskAccepted, Tasks
from tests.support.inline import InlineQueue
from tests.support.records import count, read, read_all
from tests.support.sample_tasks import add
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_SECONDS

router = APIRouter(prefix="/sample")
queue_in_route: list[int] = []


async def late_session(request: Request) -> AsyncIterator[AsyncSession]:
    """A dependency as FastAPI's documentation has it: it commits after the response."""
    async with request.app.state.database.session() as session, session.begin():
        yield session


LateSession = Annotated[AsyncSession, Depends(late_session)]


@router.post("/commits", status_code=202)
async def submit_and_commit(session: Session, tasks: Tasks, request: Request) -> TaskAccepted:
    """Submit in the request's transaction, which is committed before the response."""
    accepted = await tasks.submit(add, [1], session=session)
    queue_in_route[:] = [len(request.app.state.queue.messages)]
    return accepted


@router.post("/raises", status_code=202)
async def submit_and_raise(session: Session, tasks: Tasks) -> TaskAccepted:
    """Submit, then fail."""
    await tasks.submit(add, [1], session=session)
    raise HTTPException(409, "changed my mind")


@router.post("/commits-late", status_code=202)
async def submit_and_commit_late(session: LateSession, tasks: Tasks) -> TaskAccepted:
    """Submit in a transaction that is committed after the response."""
    return await tasks.submit(add, [1], session=session)


@router.post("/forgets", status_code=202)
async def submit_and_forget(request: Request, tasks: Tasks) -> TaskAccepted:
    """Submit in a transaction that is never committed."""
    async with request.app.state.database.session() as session:
        return await tasks.submit(add, [1], session=session)


@router.post("/after-writing", status_code=202)
async def write_and_submit(session: Session, tasks: Tasks) -> TaskAccepted:
    """Write a row that concurrent requests write too, which makes them wait for each other, then submit."""
    await session.execute(text("INSERT INTO task_schedules VALUES ('same', CURRENT_TIMESTAMP) ON CONFLICT DO NOTHING"))
    return await tasks.submit(add, [1], session=session)


@router.post("/unnamed", status_code=202)
async def write_and_submit_without_naming_the_session(session: Session, tasks: Tasks, fail: bool) -> TaskAccepted:
    """Write, then submit once and twice more, and perhaps fail."""
    await session.execute(text("INSERT INTO task_schedules VALUES ('same', CURRENT_TIMESTAMP)"))
    accepted = await tasks.submit(add, [1])
    await tasks.submit_many(add, [[2], [3]])
    if fail:
        raise HTTPException(409, "changed my mind")
    return accepted


async def test_a_route_that_has_a_session_submits_in_it_without_naming_it(
    settings: Settings, queue: InlineQueue, database: Database
) -> None:
    narrow = settings.model_copy(update={"database_pool_size": 2})
    async with serving(narrow, queue, router) as client, asyncio.timeout(PATIENCE_SECONDS):
        assert (await client.post("/sample/unnamed", params={"fail": True})).status_code == 409
        assert (await count(database), queue.messages) == (0, [])
        accepted = await client.post("/sample/unnamed", params={"fail": False})
        assert accepted.status_code == 202
        assert str((await read_all(database))[0].id) == accepted.json()["id"]
    assert len(queue.sent) == await count(database) == 3


async def test_requests_that_wait_for_each_other_need_one_connection_each(
    settings: Settings, queue: InlineQueue, database: Database
) -> None:
    requests = settings.database_pool_size
    async with serving(settings, queue, router) as client:
        responses = await asyncio.gather(*(client.post("/sample/after-writing") for _ in range(requests)))
    assert [response.status_code for response in responses] == [202] * requests
    assert await count(database) == requests


async def test_a_routes_task_is_sent_after_the_commit(
    settings: Settings, queue: InlineQueue, database: Database
) -> None:
    async with serving(settings, queue, router) as client:
        response = await client.post("/sample/commits")
        assert response.status_code == 202
        assert (await read(database, response.json()["id"])).status == "pending"
    assert queue_in_route == [0]
    assert [str(task_id) for task_id in queue.sent] == [response.json()["id"]]


async def test_a_route_that_raises_records_and_sends_nothing(
    settings: Settings, queue: InlineQueue, database: Database
) -> None:
    async with serving(settings, queue, router) as client:
        response = await client.post("/sample/raises")
    assert response.status_code == 409
    assert "Location" not in response.headers
    assert queue.messages == []
    assert await count(database) == 0


@pytest.mark.parametrize("route", ["commits-late", "forgets"])
async def test_no_client_is_told_that_a_task_is_accepted_which_is_not_committed(
    route: str, settings: Settings, queue: InlineQueue, database: Database
) -> None:
    async with serving(settings, queue, router) as client:
        response = await client.post(f"/sample/{route}")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Location" not in response.headers
    assert queue.messages == []
    assert await count(database) == 0


async def test_nothing_is_sent_before_the_commit(submitter: Submitter, queue: InlineQueue, database: Database) -> None:
    async with database.session() as session, session.begin():
        first = await submitter.submit_with(NewTask.of(add, [1]), session)
        second = await submitter.submit_with(NewTask.of(add, [2]), session)
        await session.flush()
        assert await count(database) == 0
        assert queue.messages == []
    await submitter.close()
    assert sorted(queue.sent) == [first.id, second.id]


async def test_a_rollback_records_and_sends_nothing(
    submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    async with database.session() as session:
        await submitter.submit_with(NewTask.of(add, [1]), session)
        await session.rollback()
        later = await submitter.submit_with(NewTask.of(add, [2]), session)
        await session.commit()
    await submitter.close()
    assert queue.sent == [later.id]
    assert [record.id for record in await read_all(database)] == [later.id]


async def test_a_session_can_go_on_after_its_commit(
    submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    async with database.session() as session:
        first = await submitter.submit_with(NewTask.of(add, [1]), session)
        await session.commit()
        second = await submitter.submit_with(NewTask.of(add, [2]), session)
        await session.commit()
        await submitter.submit_with(NewTask.of(add, [3]), session)
    await submitter.close()
    assert sorted(queue.sent) == [first.id, second.id]


async def test_the_end_of_a_savepoint_sends_nothing_yet(
    submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    async with database.session() as session, session.begin():
        async with session.begin_nested():
            accepted = await submitter.submit_with(NewTask.of(add, [1]), session)
        await submitter.close()
        assert queue.messages == []
    await submitter.close()
    assert queue.sent == [accepted.id]


async def test_a_savepoint_that_is_rolled_back_takes_only_its_own_task_along(
    submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    async with database.session() as session, session.begin():
        before = await submitter.submit_with(NewTask.of(add, [1]), session)
        savepoint = await session.begin_nested()
        undone = await submitter.submit_with(NewTask.of(add, [2]), session)
        await savepoint.rollback()
        after = await submitter.submit_with(NewTask.of(add, [3]), session)
    await submitter.close()
    assert {before.id, after.id} <= set(queue.sent)
    assert undone.id not in {record.id for record in await read_all(database)}
