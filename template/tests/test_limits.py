"""Limits: a body that is too large, and more tasks than may wait, are refused before anything is recorded."""

import json
from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter
from httpx import AsyncClient, Response

from app.database import Database
from app.settings import Settings
from app.tasks import Submitter, TaskAccepted, Tasks, backlog
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LATER, change, count, submit_all
from tests.support.sample_tasks import add
from tests.support.serving import serving

LIMIT = 2000

router = APIRouter(prefix="/sums")


@router.post("", status_code=202)
async def create(numbers: list[int], tasks: Tasks) -> TaskAccepted:
    """Have numbers added."""
    return await tasks.submit(add, numbers)


@pytest.fixture
async def narrow(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of an API that takes small bodies only."""
    async with serving(settings.model_copy(update={"max_body_bytes": LIMIT}), queue, router) as client:
        yield client


def body_of(size: int) -> bytes:
    """Return JSON of exactly that many bytes."""
    return json.dumps([1, 2]).encode().ljust(size)


async def in_parts(body: bytes, size: int = 700) -> AsyncIterator[bytes]:
    """Give a body in parts; a client then sends no Content-Length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def post(client: AsyncClient, body: bytes | AsyncIterator[bytes]) -> Response:
    return await client.post("/sums", content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_body_that_is_too_large_is_refused_and_nothing_recorded(
    in_chunks: bool, narrow: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    body = body_of(LIMIT + 1)
    response = await post(narrow, in_parts(body) if in_chunks else body)
    assert ("content-length" in response.request.headers) is not in_chunks
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert str(LIMIT) in response.json()["detail"]
    assert response.headers["X-Request-ID"]
    assert await count(database) == 0
    assert queue.messages == []


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_body_at_the_limit_is_taken_whole(in_chunks: bool, narrow: AsyncClient, run_tasks: TaskRunner) -> None:
    body = body_of(LIMIT)
    response = await post(narrow, in_parts(body) if in_chunks else body)
    assert response.status_code == 202
    [record] = await run_tasks()
    assert record.result == 3


async def test_of_an_endless_body_no_more_is_read_than_the_limit(narrow: AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 500
            yield b" " * 500

    assert (await post(narrow, endless())).status_code == 413
    assert read <= LIMIT + 500


async def test_the_limit_stands_before_the_key_is_asked_for(narrow: AsyncClient) -> None:
    response = await narrow.post("/nowhere", content=body_of(LIMIT + 1))
    assert response.status_code == 413


@pytest.fixture
async def busy(settings: Settings, queue: InlineQueue, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """A client of an API that lets two tasks wait, and counts them every time."""
    monkeypatch.setattr(backlog, "CACHE_SECONDS", -1)
    async with serving(settings.model_copy(update={"task_max_pending": 2}), queue, router) as client:
        yield client


async def test_while_too_much_waits_nothing_more_is_accepted(
    busy: AsyncClient, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    statuses = [(await post(busy, b"[1]")).status_code for _ in range(3)]
    assert statuses == [202, 202, 503]
    refused = await post(busy, b"[1]")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "10"
    assert "waiting" in refused.json()["detail"]
    assert (await count(database), len(queue.sent)) == (2, 2)

    await run_tasks()
    assert (await post(busy, b"[1]")).status_code == 202


async def test_other_requests_go_on_while_too_much_waits(
    busy: AsyncClient, submitter: Submitter, database: Database
) -> None:
    ids = await submit_all(submitter, add, [[1], [2], [3]])
    assert (await post(busy, b"[1]")).status_code == 503
    assert (await busy.get(f"/tasks/{ids[0]}")).status_code == 200
    assert (await busy.post(f"/tasks/{ids[0]}/cancel")).status_code == 202
    assert (await busy.post(f"/tasks/{ids[0]}/retry")).status_code == 202  # it was accepted long ago


async def test_only_tasks_that_could_run_now_count(busy: AsyncClient, submitter: Submitter, database: Database) -> None:
    later, unknown, running, done = await submit_all(submitter, add, ([number] for number in range(4)))
    await change(database, later, run_at=LATER)
    await change(database, unknown, name="nobody.knows")
    await change(database, running, status="running", lease_expires_at=LATER)
    await change(database, done, status="completed")
    assert [(await post(busy, b"[1]")).status_code for _ in range(3)] == [202, 202, 503]


async def test_what_waits_is_counted_once_a_second_and_not_for_every_request(
    settings: Settings, queue: InlineQueue, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "CACHE_SECONDS", 3600)
    async with serving(settings.model_copy(update={"task_max_pending": 2}), queue, router) as client:
        assert (await post(client, b"[1]")).status_code == 202
        await submit_all(submitter, add, [[1], [2], [3]])
        assert (await post(client, b"[1]")).status_code == 202  # by the count of before
