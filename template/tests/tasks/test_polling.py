"""Polling: an answer that is known already is not sent again, and a long poll waits for news without costing much."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import delete

from app.database import Database
from app.factory import create_app
from app.settings import Settings
from app.tasks import Submitter, TaskContext, TaskRecord, task
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import submit_all
from tests.support.sample_tasks import add
from tests.support.serving import connected
from tests.support.waiting import PATIENCE_SECONDS, until

MUCH_SOONER = 10.0
"""Seconds: less than the waits that are asked for, and more than any answer takes on a busy machine."""


@pytest.fixture
async def api(settings: Settings, queue: InlineQueue) -> AsyncIterator[FastAPI]:
    """The application itself, started."""
    app = create_app(settings.model_copy(update={"database_pool_size": 2}), queue)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def poller(api: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client of that application."""
    async with connected(api) as client:
        yield client


@pytest.fixture
async def pending(submitter: Submitter) -> str:
    """The path of a task that waits."""
    [task_id] = await submit_all(submitter, add, [[1, 2]])
    return f"/tasks/{task_id}"


async def begin_waiting(api: FastAPI, *polls: asyncio.Task[Response]) -> None:
    """Return once that many clients wait, or fail with the answer that came too soon."""

    def waits() -> bool:
        assert not any(poll.done() for poll in polls), "answered at once"
        return sum(map(len, api.state.watcher._waiting.values())) == len(polls)

    await until(waits)


def poll(client: AsyncClient, path: str, **headers: str) -> asyncio.Task[Response]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(client.get(path, headers=sent))


async def soon(poll: asyncio.Task[Response]) -> Response:
    async with asyncio.timeout(MUCH_SOONER):
        return await poll


async def test_an_unchanged_task_is_not_sent_again(poller: AsyncClient, pending: str) -> None:
    first = await poller.get(pending)
    again = await poller.get(pending, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "private, no-cache"
    assert again.headers["Retry-After"] == "1"
    assert "Authorization" in again.headers["Vary"]


async def test_any_of_the_tags_a_client_knows_will_do(poller: AsyncClient, pending: str) -> None:
    tag = (await poller.get(pending)).headers["ETag"]
    for known in "*", f"W/{tag}", f'"before", {tag}', f'{tag} , "after"', f'"a,b", W/{tag}':
        assert (await poller.get(pending, headers={"If-None-Match": known})).status_code == 304, known
    for other in '"before"', 'W/"0", "1000"', tag.strip('"'), "":
        assert (await poller.get(pending, headers={"If-None-Match": other})).status_code == 200, other


async def test_every_change_that_a_client_can_see_has_a_tag_of_its_own(
    poller: AsyncClient, pending: str, run_tasks: TaskRunner
) -> None:
    go_on = asyncio.Event()

    @task(name="test.paced")
    async def paced(context: TaskContext, _payload: None) -> None:
        await context.progress(0.5)
        await go_on.wait()

    [task_id] = await submit_all(run_tasks.worker.submitter, paced, [None])
    tags = []

    async def next_tag(status: str, fraction: float | None) -> None:
        while True:
            shown = await poller.get(f"/tasks/{task_id}")
            told = shown.json()["progress"]
            if (shown.json()["status"], told and told["fraction"]) == (status, fraction):
                tags.append(shown.headers["ETag"])
                return

    async with asyncio.timeout(PATIENCE_SECONDS):
        await next_tag("pending", None)
        running = asyncio.create_task(run_tasks())
        await next_tag("running", 0.5)
        go_on.set()
        await next_tag("completed", 1.0)
        await running
    assert len(set(tags)) == 3


async def test_a_long_poll_is_answered_when_the_task_is_finished(
    api: FastAPI, poller: AsyncClient, pending: str, run_tasks: TaskRunner
) -> None:
    waiting = poll(poller, pending, Prefer="wait=30")
    await begin_waiting(api, waiting)
    await run_tasks()
    answer = await soon(waiting)
    assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (200, "completed", 3)
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert "Retry-After" not in answer.headers
    assert answer.headers["ETag"] == (await poller.get(pending)).headers["ETag"]


async def test_a_long_poll_with_a_tag_is_answered_at_any_change_and_without_one_at_the_end(
    api: FastAPI, poller: AsyncClient, run_tasks: TaskRunner
) -> None:
    go_on = asyncio.Event()

    @task(name="test.paced")
    async def paced(_context: TaskContext, _payload: None) -> None:
        await go_on.wait()

    [task_id] = await submit_all(run_tasks.worker.submitter, paced, [None])
    path = f"/tasks/{task_id}"
    tag = (await poller.get(path)).headers["ETag"]
    to_the_end = poll(poller, path, Prefer="wait=30")
    to_a_change = poll(poller, path, Prefer="wait=30", If_None_Match=tag)
    await begin_waiting(api, to_the_end, to_a_change)
    running = asyncio.create_task(run_tasks())
    changed = await soon(to_a_change)
    assert (changed.status_code, changed.json()["status"]) == (200, "running")
    assert not to_the_end.done()
    go_on.set()
    assert (await soon(to_the_end)).json()["status"] == "completed"
    await running


async def test_a_long_poll_gives_up_after_its_wait(poller: AsyncClient, pending: str) -> None:
    tag = (await poller.get(pending)).headers["ETag"]
    begun = time.monotonic()
    plain = await poll(poller, pending, Prefer="wait=1")
    assert time.monotonic() - begun >= 1
    begun = time.monotonic()
    tagged = await poll(poller, pending, Prefer="wait=1", If_None_Match=tag)
    assert time.monotonic() - begun >= 1
    assert (plain.status_code, plain.json()["status"], plain.headers["Retry-After"]) == (200, "pending", "1")
    assert tagged.status_code == 304
    assert tagged.headers["Preference-Applied"] == "wait=1"


async def test_what_is_news_already_is_answered_at_once(
    poller: AsyncClient, pending: str, run_tasks: TaskRunner
) -> None:
    changed = await soon(poll(poller, pending, Prefer="wait=30", If_None_Match='"0"'))
    assert (changed.status_code, changed.json()["status"]) == (200, "pending")
    await run_tasks()
    finished = await soon(poll(poller, pending, Prefer="wait=30"))
    assert finished.json()["status"] == "completed"


async def test_the_answer_says_which_wait_was_granted(poller: AsyncClient, pending: str, run_tasks: TaskRunner) -> None:
    await run_tasks()
    for preference, applied in {
        "wait=20": "wait=20",
        "wait=31": "wait=30",
        "wait=999999": "wait=30",
        "respond-async, wait=5": "wait=5",
        "wait=5; foo": "wait=5",
        "respond-async": None,
        "wait=-1": None,
        "wait=soon": None,
        "await=5": None,
        "": None,
    }.items():
        answer = await soon(poll(poller, pending, Prefer=preference))
        assert (answer.status_code, answer.headers.get("Preference-Applied")) == (200, applied), preference


async def test_no_wait_is_no_wait(poller: AsyncClient, pending: str) -> None:
    answer = await soon(poll(poller, pending, Prefer="wait=0"))
    assert (answer.json()["status"], answer.headers["Preference-Applied"]) == ("pending", "wait=0")


async def test_those_who_wait_hold_no_connection(
    api: FastAPI, poller: AsyncClient, pending: str, run_tasks: TaskRunner
) -> None:
    polls = [poll(poller, pending, Prefer="wait=30") for _ in range(20)]
    await begin_waiting(api, *polls)  # ten times as many as the pool has connections
    for _ in range(3):
        assert (await soon(poll(poller, pending))).json()["status"] == "pending"
    assert not any(poll.done() for poll in polls)
    await run_tasks()
    answers = [await soon(poll) for poll in polls]
    assert [answer.json()["status"] for answer in answers] == ["completed"] * 20


async def test_a_task_that_is_deleted_meanwhile_is_not_found(
    api: FastAPI, poller: AsyncClient, pending: str, database: Database
) -> None:
    waiting = poll(poller, pending, Prefer="wait=30")
    await begin_waiting(api, waiting)
    async with database.begin() as connection:
        await connection.execute(delete(TaskRecord))
    assert (await soon(waiting)).status_code == 404


async def test_a_client_that_goes_away_is_forgotten(api: FastAPI, poller: AsyncClient, pending: str) -> None:
    waiting = poll(poller, pending, Prefer="wait=30")
    await begin_waiting(api, waiting)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert api.state.watcher._waiting == {}


async def test_a_service_that_stops_answers_those_who_wait(api: FastAPI, poller: AsyncClient, pending: str) -> None:
    waiting = poll(poller, pending, Prefer="wait=30")
    await begin_waiting(api, waiting)
    await api.state.watcher.close()
    assert (await soon(waiting)).json()["status"] == "pending"
