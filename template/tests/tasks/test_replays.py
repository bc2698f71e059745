"""Idempotency-Key: a replay is answered as its route answered, as far as the records tell."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, Request
from httpx import AsyncClient, Response
from pydantic import BaseModel
from sqlalchemy import text

from app.database import Database, Session
from app.settings import Settings
from app.tasks import TaskAccepted, Tasks, submit
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import count, effects
from tests.support.sample_tasks import add
from tests.support.serving import serving

router = APIRouter(prefix="/sample")


class Order(BaseModel):
    """An answer of a route's own."""

    number: int
    task: TaskAccepted


@router.post("/sums", status_code=201)
async def create_many(body: list[int], tasks: Tasks) -> list[TaskAccepted]:
    """Have each number added."""
    return await tasks.submit_many(add, [[number] for number in body])


@router.post("/rows", status_code=202)
async def create_many_with_a_row(body: list[int], session: Session, tasks: Tasks) -> list[TaskAccepted]:
    """Write a row, in one transaction with the tasks. Written again, it would break its primary key."""
    await session.execute(text("INSERT INTO task_schedules VALUES ('row', CURRENT_TIMESTAMP)"))
    return await tasks.submit_many(add, [[number] for number in body])


@router.post("/sum")
async def create_one(body: list[int], tasks: Tasks) -> TaskAccepted:
    """Have the numbers added, and answer 200."""
    return await tasks.submit(add, body)


@router.post("/orders", status_code=201)
async def create_order(body: list[int], tasks: Tasks) -> Order:
    """Have the numbers added, and answer something else."""
    return Order(number=17, task=await tasks.submit(add, body))


@router.post("/text")
async def take_text(request: Request, tasks: Tasks) -> TaskAccepted:
    """Take a body that is no JSON."""
    return await tasks.submit(add, [len(await request.body())])


@pytest.fixture
async def sums(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of the API with the routes of this file."""
    async with serving(settings, queue, router) as client:
        yield client


async def post(client: AsyncClient, path: str, body: Any) -> Response:
    return await client.post(f"/sample{path}", json=body, headers={"Idempotency-Key": "k"})


async def test_a_route_that_returns_a_list_answers_with_all_of_it_again(
    sums: AsyncClient, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    first = await post(sums, "/sums", [3, 1, 2])
    again = await post(sums, "/sums", [3, 1, 2])
    assert (first.status_code, len(first.json())) == (201, 3)
    assert (again.status_code, again.json()) == (201, first.json())
    assert "Location" not in again.headers
    assert len(queue.sent) == 3
    assert [record.result for record in await run_tasks()] == [3, 1, 2]
    late = await post(sums, "/sums", [3, 1, 2])
    assert [task["id"] for task in late.json()] == [task["id"] for task in first.json()]
    assert {task["status"] for task in late.json()} == {"completed"}
    assert (await post(sums, "/sums", [3, 1])).status_code == 422


async def test_a_long_list_is_read_in_parts(
    sums: AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "KEYS_AT_ONCE", 4)
    for size in 11, 12:
        first = await sums.post("/sample/sums", json=list(range(size)), headers={"Idempotency-Key": f"{size}"})
        again = await sums.post("/sample/sums", json=list(range(size)), headers={"Idempotency-Key": f"{size}"})
        assert again.json() == first.json()
        assert len(again.json()) == size
    assert await count(database) == 23


async def test_the_keys_of_two_requests_are_kept_apart(sums: AsyncClient) -> None:
    answers = [
        await sums.post("/sample/sums", json=[1, 2], headers={"Idempotency-Key": key})
        for key in ("k", "k#2", "k2", "k")
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert answers[3].json() == answers[0].json()
    assert len({task["id"] for answer in answers for task in answer.json()}) == 6


async def test_a_replay_of_a_list_writes_the_routes_row_once(
    sums: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    first = await post(sums, "/rows", [1, 2])
    again = await post(sums, "/rows", [1, 2])
    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (202, first.json())
    assert await effects(database) == ["row"]
    assert len(queue.sent) == 2


async def test_of_two_lists_at_the_same_time_both_get_the_one_that_is_accepted(
    sums: AsyncClient, database: Database
) -> None:
    gate = asyncio.Barrier(2)
    late = APIRouter()

    @late.post("/late-lists", status_code=202)
    async def create_late(numbers: list[int], tasks: Tasks) -> list[TaskAccepted]:
        await gate.wait()  # both have looked for the key, neither has submitted
        return await tasks.submit_many(add, [[number] for number in numbers])

    sums._transport.app.include_router(late)  # type: ignore[attr-defined]
    keyed = {"Idempotency-Key": "k"}
    both = await asyncio.gather(*(sums.post("/late-lists", json=[1, 2], headers=keyed) for _ in range(2)))
    assert [answer.status_code for answer in both] == [202, 202]
    assert both[0].json() == both[1].json()
    assert await count(database) == 2


async def test_a_replay_has_the_status_of_its_route(sums: AsyncClient) -> None:
    first = await post(sums, "/sum", [1, 2])
    again = await post(sums, "/sum", [1, 2])
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]


async def test_a_route_with_an_answer_of_its_own_is_replayed_as_202_with_the_task(
    sums: AsyncClient, database: Database
) -> None:
    first = await post(sums, "/orders", [1, 2])
    again = await post(sums, "/orders", [1, 2])
    assert (first.status_code, again.status_code) == (201, 202)
    assert again.json() == first.json()["task"]
    assert again.headers["Location"] == f"/tasks/{again.json()['id']}"
    assert await count(database) == 1


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 600 + b"]" * 600, b"\xff", b"", b"1" * 5000])
async def test_a_body_that_no_parser_takes_is_a_body_like_any_other(
    body: bytes, sums: AsyncClient, database: Database
) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "text/plain"}
    first, again = [await sums.post("/sample/text", content=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert (await sums.post("/sample/text", content=body + b"x", headers=headers)).status_code == 422
    assert await count(database) == 1
