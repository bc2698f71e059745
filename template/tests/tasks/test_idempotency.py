"""Idempotency-Key: a request that is sent again is answered as before, and nothing happens twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter
from httpx import AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import text

from app.database import Database, Session
from app.settings import Settings
from app.tasks import TaskAccepted, Tasks, store
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LONG_AGO, change, count, effects, read_all
from tests.support.sample_tasks import add
from tests.support.serving import serving

ADA, BOB = "ada-0123456789abcdef", "bob-0123456789abcdef"
HEADERS = ("Location", "Retry-After", "Cache-Control")

router = APIRouter(prefix="/sample")


@router.post("/sums", status_code=202)
async def create(body: dict[str, Any], tasks: Tasks) -> TaskAccepted:
    """Have the numbers in the body added."""
    return await tasks.submit(add, body["numbers"])


@router.post("/other-sums/{number}", status_code=202)
async def create_elsewhere(number: int, tasks: Tasks) -> TaskAccepted:
    """Have a number of the path added."""
    return await tasks.submit(add, [number])


@router.post("/rows", status_code=202)
async def create_with_row(body: dict[str, Any], session: Session, tasks: Tasks) -> TaskAccepted:
    """Write a row, in one transaction with the task."""
    await session.execute(
        text("INSERT INTO task_schedules (name, last_fire_at) VALUES (:name, CURRENT_TIMESTAMP)"),
        {"name": body["row"]},
    )
    return await tasks.submit(add, [1], session=session)


@router.post("/pairs", status_code=202)
async def create_two(body: list[int], session: Session, tasks: Tasks) -> TaskAccepted:
    """Submit two tasks for one request."""
    first = await tasks.submit(add, body, session=session)
    await tasks.submit(add, [*body, 1], session=session)
    return first


@router.post("/orders/{order}", status_code=202)
async def create_once_for(order: str, numbers: list[int], tasks: Tasks) -> TaskAccepted:
    """Submit with a key of the route's own."""
    return await tasks.submit(add, numbers, key=f"order {order}")


@pytest.fixture
async def sums(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of the API with the routes of this file."""
    async with serving(settings, queue, router) as client:
        yield client


async def post(client: AsyncClient, path: str, body: Any, key: str | None, **headers: str) -> Response:
    keyed = {"Idempotency-Key": key} if key is not None else {}
    return await client.post(f"/sample{path}", json=body, headers=keyed | headers)


def shown(response: Response) -> tuple[Any, ...]:
    """Return what a client sees of an answer to a submission."""
    assert response.status_code == 202, response.text
    return (response.json(), *(response.headers[name] for name in HEADERS))


async def test_a_request_sent_again_is_answered_as_before_and_runs_once(
    sums: AsyncClient, run_tasks: TaskRunner, queue: InlineQueue
) -> None:
    first = await post(sums, "/sums", {"numbers": [1, 2]}, "k")
    again = await post(sums, "/sums", {"numbers": [1, 2]}, "k")
    assert shown(again) == shown(first)
    assert len(queue.sent) == 1
    [record] = await run_tasks()
    assert (str(record.id), record.attempt) == (first.json()["id"], 1)
    late = await post(sums, "/sums", {"numbers": [1, 2]}, "k")
    assert shown(late)[1:] == shown(first)[1:]
    assert (late.json()["id"], late.json()["status"]) == (first.json()["id"], "completed")
    assert queue.sent == []


async def test_without_a_key_or_with_another_it_is_another_task(sums: AsyncClient) -> None:
    answers = [await post(sums, "/sums", {"numbers": [1]}, key) for key in (None, None, "a", "b")]
    assert len({answer.json()["id"] for answer in answers}) == 4


async def test_a_key_with_another_body_is_refused(sums: AsyncClient, database: Database) -> None:
    await post(sums, "/sums", {"numbers": [1, 2]}, "k")
    refused = await post(sums, "/sums", {"numbers": [2, 1]}, "k")
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "Idempotency-Key" in refused.json()["detail"]
    assert await count(database) == 1


async def test_the_layout_of_the_json_does_not_matter(sums: AsyncClient, database: Database) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    layouts = '{"numbers": [1, 2], "note": "é"}', '{ "note":"\\u00e9",\n"numbers":[1,2] }'
    ids = [(await sums.post("/sample/sums", content=body, headers=headers)).json()["id"] for body in layouts]
    assert ids[0] == ids[1]
    assert await count(database) == 1


async def test_a_key_counts_for_one_route(sums: AsyncClient) -> None:
    here = await post(sums, "/sums", {"numbers": [1]}, "k")
    there = await post(sums, "/other-sums/1", None, "k")
    assert here.json()["id"] != there.json()["id"]
    assert shown(await post(sums, "/other-sums/1", None, "k")) == shown(there)


async def test_what_the_url_says_belongs_to_the_request(sums: AsyncClient) -> None:
    await post(sums, "/other-sums/1", None, "k")
    assert (await post(sums, "/other-sums/2", None, "k")).status_code == 422
    assert (await post(sums, "/other-sums/1?note=x", None, "k")).status_code == 422


async def test_a_key_counts_for_one_owner(settings: Settings, queue: InlineQueue) -> None:
    keys = settings.model_copy(update={"api_keys": SecretStr(f"ada:{ADA},bob:{BOB}")})
    async with serving(keys, queue, router) as client:
        answers = [
            await post(client, "/sums", {"numbers": numbers}, "k", Authorization=f"Bearer {key}")
            for key, numbers in ((ADA, [1]), (BOB, [2]), (ADA, [1]))
        ]
    adas, bobs, adas_again = answers
    assert adas.json()["id"] != bobs.json()["id"]
    assert shown(adas_again) == shown(adas)


async def test_requests_at_the_same_time_become_one_task_and_equal_answers(
    sums: AsyncClient, queue: InlineQueue, database: Database
) -> None:
    for turn in range(5):
        both = await asyncio.gather(*(post(sums, "/sums", {"numbers": [turn]}, f"k{turn}") for _ in range(2)))
        assert shown(both[0]) == shown(both[1])
    assert await count(database) == 5
    assert len(queue.sent) == 5


async def test_of_two_different_requests_at_the_same_time_one_is_refused(sums: AsyncClient, database: Database) -> None:
    both = await asyncio.gather(*(post(sums, "/sums", {"numbers": [number]}, "k") for number in (1, 2)))
    assert sorted(response.status_code for response in both) == [202, 422]
    assert await count(database) == 1


async def test_a_replay_writes_the_business_row_once(sums: AsyncClient, database: Database, queue: InlineQueue) -> None:
    first = await post(sums, "/rows", {"row": "paid"}, "k")
    # Written again, the row would break its primary key and be a 500.
    assert shown(await post(sums, "/rows", {"row": "paid"}, "k")) == shown(first)
    assert await effects(database) == ["paid"]
    assert len(queue.sent) == 1


async def test_of_two_at_the_same_time_only_the_one_that_is_accepted_writes_its_row(
    sums: AsyncClient, database: Database
) -> None:
    """The second passes the first look at the key: what it has written before its submission must go."""
    gate = asyncio.Barrier(2)
    late = APIRouter()

    @late.post("/late-rows", status_code=202)
    async def create_late(rows: list[str], tasks: Tasks, session: Session) -> TaskAccepted:
        await gate.wait()  # both have looked, neither has submitted
        await session.execute(
            text("INSERT INTO task_schedules (name, last_fire_at) VALUES (:name, CURRENT_TIMESTAMP)"),
            {"name": f"{rows[0]} {id(session)}"},
        )
        return await tasks.submit(add, [1], session=session)

    sums._transport.app.include_router(late)  # type: ignore[attr-defined]
    keyed = {"Idempotency-Key": "k"}
    both = await asyncio.gather(*(sums.post("/late-rows", json=["row"], headers=keyed) for _ in range(2)))
    assert shown(both[0]) == shown(both[1])
    assert len(await effects(database)) == 1
    assert await count(database) == 1


async def test_several_submissions_of_a_request_are_each_made_once(sums: AsyncClient, run_tasks: TaskRunner) -> None:
    first = await post(sums, "/pairs", [1, 2], "k")
    assert shown(await post(sums, "/pairs", [1, 2], "k")) == shown(first)
    assert [record.result for record in await run_tasks()] == [3, 4]


async def test_a_key_of_the_routes_own_makes_a_submission_count_once(sums: AsyncClient, database: Database) -> None:
    first = await post(sums, "/orders/17", [1], None)
    assert shown(await post(sums, "/orders/17", [1], None)) == shown(first)
    assert (await post(sums, "/orders/17", [2], None)).status_code == 422
    assert (await post(sums, "/orders/18", [1], None)).json()["id"] != first.json()["id"]
    assert await count(database) == 2


async def test_the_key_of_a_deleted_record_may_be_used_again(sums: AsyncClient, database: Database) -> None:
    await post(sums, "/sums", {"numbers": [1]}, "k")
    [record] = await read_all(database)
    await change(database, record.id, status="completed", finished_at=LONG_AGO)
    async with database.begin() as connection:
        assert await store.purge(connection, older_than=60, limit=10) == 1
    again = await post(sums, "/sums", {"numbers": [2]}, "k")
    assert again.status_code == 202
    assert again.json()["id"] != str(record.id)


async def test_a_known_key_is_answered_as_before_although_too_much_waits(
    settings: Settings, queue: InlineQueue
) -> None:
    full = settings.model_copy(update={"task_max_pending": 1})
    async with serving(full, queue, router) as client:
        first = await post(client, "/sums", {"numbers": [1]}, "k")
    async with serving(full, queue, router) as client:  # it has not counted yet
        assert (await post(client, "/sums", {"numbers": [1]}, "other")).status_code == 503
        assert shown(await post(client, "/sums", {"numbers": [1]}, "k")) == shown(first)


@pytest.mark.parametrize("key", ["", "with space", "x" * 201, "schlüssel", "tab\t"])
async def test_a_key_that_is_none_is_refused(key: str, sums: AsyncClient, database: Database) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    response = await sums.post("/sample/sums", json={"numbers": [1]}, headers=headers)
    assert response.status_code == 422
    assert [error["location"] for error in response.json()["errors"]] == [["header", "idempotency-key"]]
    assert await count(database) == 0


async def test_a_refused_request_does_not_use_up_its_key(sums: AsyncClient) -> None:
    assert (await sums.post("/sample/other-sums/x", headers={"Idempotency-Key": "k"})).status_code == 422
    assert (await post(sums, "/other-sums/1", None, "k")).status_code == 202
