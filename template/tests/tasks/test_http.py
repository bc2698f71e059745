"""/tasks over HTTP: following a task, and listing them."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.database import Database
from app.tasks import NewTask, Submitter, TaskContext, task
from tests.support.inline import TaskRunner
from tests.support.records import LATER, change, submit_all
from tests.support.sample_tasks import add, fail_until, refuse
from tests.support.waiting import PATIENCE_SECONDS

FIELDS = {
    "id",
    "name",
    "status",
    "attempt",
    "max_attempts",
    "progress",
    "result",
    "error",
    "created_at",
    "started_at",
    "finished_at",
    "run_at",
}


async def test_an_unknown_task_is_not_found(client: AsyncClient) -> None:
    response = await client.get(f"/tasks/{uuid4()}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["title"]) == (404, "Not Found")
    assert "no task" in problem["detail"]


async def test_a_pending_task_is_told_from_a_running_one(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task(name="test.paced")
    async def paced(_context: TaskContext, _payload: None) -> str:
        begun.set()
        await go_on.wait()
        return "done"

    accepted = await submitter.submit(NewTask.of(paced, None))
    waiting = await client.get(f"/tasks/{accepted.id}")
    assert set(waiting.json()) == FIELDS
    assert (waiting.json()["status"], waiting.json()["started_at"], waiting.json()["attempt"]) == ("pending", None, 0)

    running = asyncio.create_task(run_tasks())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
    runs = await client.get(f"/tasks/{accepted.id}")
    assert (runs.json()["status"], runs.json()["finished_at"], runs.json()["attempt"]) == ("running", None, 1)
    assert runs.json()["started_at"] is not None

    go_on.set()
    await running
    done = await client.get(f"/tasks/{accepted.id}")
    assert (done.json()["status"], done.json()["result"]) == ("completed", "done")
    assert [response.headers.get("Retry-After") for response in (waiting, runs, done)] == ["1", "1", None]


async def test_a_failed_task_says_why(client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner) -> None:
    accepted = await submitter.submit(NewTask.of(refuse, "no such order"))
    await run_tasks()
    response = await client.get(f"/tasks/{accepted.id}")
    assert response.status_code == 200
    assert response.json()["status"] == "failed"
    assert response.json()["error"] == {"type": "TaskFailed", "message": "no such order"}
    assert "Retry-After" not in response.headers


async def test_a_task_that_waits_for_its_next_attempt_says_why_the_last_one_failed(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    accepted = await submitter.submit(NewTask.of(fail_until, 2))
    await run_tasks.deliver()
    response = await client.get(f"/tasks/{accepted.id}")
    assert (response.json()["status"], response.json()["attempt"]) == ("pending", 1)
    assert response.json()["error"]["type"] == "TemporaryError"
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/tasks", "/tasks/{id}"])
async def test_an_answer_is_never_taken_from_a_cache_as_fresh(
    path: str, client: AsyncClient, submitter: Submitter
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    response = await client.get(path.format(id=task_id))
    assert response.headers["Cache-Control"] == "private, no-cache"


async def test_times_are_utc_and_say_so(client: AsyncClient, submitter: Submitter) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    shown = (await client.get(f"/tasks/{task_id}")).json()
    assert shown["created_at"].endswith("Z")
    assert shown["run_at"] == shown["created_at"]


async def pages(client: AsyncClient, **query: Any) -> list[list[str]]:
    """Return the ids of all pages of a list."""
    found = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get("/tasks", params=query | cursor)).json()
        found.append([item["id"] for item in page["items"]])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


async def test_the_list_begins_with_the_newest(client: AsyncClient, submitter: Submitter) -> None:
    ids = [str(task_id) for task_id in await submit_all(submitter, add, [[1], [2], [3]])]
    assert await pages(client) == [ids[::-1]]
    assert set((await client.get("/tasks")).json()["items"][0]) == FIELDS


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (5, [5]), (1, [1] * 5), (100, [5])])
async def test_pages_have_no_gaps_and_no_doubles(
    limit: int, sizes: list[int], client: AsyncClient, submitter: Submitter
) -> None:
    ids = [str(task_id) for task_id in await submit_all(submitter, add, ([number] for number in range(5)))]
    found = await pages(client, limit=limit)
    assert [len(page) for page in found] == sizes
    assert [task_id for page in found for task_id in page] == ids[::-1]


async def test_what_is_submitted_meanwhile_does_not_shift_the_pages(client: AsyncClient, submitter: Submitter) -> None:
    ids = [str(task_id) for task_id in await submit_all(submitter, add, ([number] for number in range(4)))]
    first = (await client.get("/tasks", params={"limit": 2})).json()
    await submit_all(submitter, add, [[9], [9], [9]])
    second = (await client.get("/tasks", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]


async def test_the_list_can_be_filtered_by_status_and_name(
    client: AsyncClient, submitter: Submitter, database: Database
) -> None:
    ids = [*await submit_all(submitter, add, [[1], [2]]), *await submit_all(submitter, refuse, ["no", "yes"])]
    await change(database, ids[1], status="completed")
    await change(database, ids[2], status="failed")
    await change(database, ids[3], status="running", lease_expires_at=LATER)
    waiting, done, refused, running = map(str, ids)
    assert await pages(client, status="pending") == [[waiting]]
    assert await pages(client, status="completed") == [[done]]
    assert await pages(client, status="running") == [[running]]
    assert await pages(client, status="cancelled") == [[]]
    assert await pages(client, name="sample.add") == [[done, waiting]]
    assert await pages(client, name="sample.refuse", status="failed") == [[refused]]
    assert await pages(client, name="no.such") == [[]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "hunter2"}, "status"),
        ({"limit": "hunter2"}, "limit"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"cursor": "hunter2"}, "cursor"),
        ({"name": "hunter2" * 100}, "name"),
        ({"name": "hunter2\0"}, "name"),
    ],
)
async def test_a_wrong_query_is_refused_without_repeating_it(
    query: dict[str, Any], field: str, client: AsyncClient
) -> None:
    response = await client.get("/tasks", params=query)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert [error["location"] for error in response.json()["errors"]] == [["query", field]]
    assert "hunter2" not in response.text


async def test_an_id_that_is_none_is_refused_without_repeating_it(client: AsyncClient) -> None:
    response = await client.get("/tasks/hunter2")
    assert response.status_code == 422
    assert "hunter2" not in response.text
