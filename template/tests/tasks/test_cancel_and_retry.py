"""Cancelling and running again: what is asked for over HTTP, and what becomes of the run."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.database import Database
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskContext, TaskFailed, task
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LATER, change, read, submit_all
from tests.support.sample_tasks import AT_ONCE, TemporaryError, add, refuse
from tests.support.waiting import PATIENCE_SECONDS, until


@pytest.fixture
async def beating(settings: Settings, database: Database, queue: InlineQueue) -> AsyncIterator[TaskRunner]:
    """A worker in this process that keeps its leases, and so learns of cancellations."""
    runner = TaskRunner(settings, database, queue)
    await runner.worker.start()
    yield runner
    await runner.worker.stop()


async def test_a_pending_task_is_cancelled_at_once_and_never_runs(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    response = await client.post(f"/tasks/{task_id}/cancel")
    assert response.status_code == 202
    assert response.json()["status"] == "cancelled"
    assert response.json()["finished_at"] is not None
    [record] = await run_tasks()  # its message is delivered nevertheless
    assert (record.status, record.attempt, record.fence, record.result) == ("cancelled", 0, 0, None)


async def test_a_task_for_later_or_between_two_attempts_is_cancelled_at_once(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    ids = await submit_all(submitter, add, [[1], [2]])
    await change(database, ids[0], run_at=LATER)
    await change(database, ids[1], run_at=LATER, attempt=1)
    for task_id in ids:
        assert (await client.post(f"/tasks/{task_id}/cancel")).json()["status"] == "cancelled"
    assert {record.status for record in await run_tasks()} == {"cancelled"}


async def test_a_running_task_is_asked_and_stops_at_the_next_heartbeat(
    client: AsyncClient, submitter: Submitter, beating: TaskRunner, database: Database
) -> None:
    begun, tidied = asyncio.Event(), asyncio.Event()

    @task(name="test.tidy")
    async def tidy(_context: TaskContext, _payload: None) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            tidied.set()

    [task_id] = await submit_all(submitter, tidy, [None])
    delivery = asyncio.create_task(beating.deliver())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        asked = await client.post(f"/tasks/{task_id}/cancel")
        assert (asked.status_code, asked.json()["status"]) == (202, "running")
        await tidied.wait()
        await delivery
    record = await read(database, task_id)
    assert (record.status, record.attempt, record.error) == ("cancelled", 1, None)
    assert record.finished_at is not None


async def test_asking_twice_is_asking_once(client: AsyncClient, submitter: Submitter, database: Database) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    await change(database, task_id, status="running", lease_expires_at=LATER, fence=1)
    await client.post(f"/tasks/{task_id}/cancel")
    first = (await read(database, task_id)).cancel_requested_at
    assert (await client.post(f"/tasks/{task_id}/cancel")).status_code == 202
    assert (await read(database, task_id)).cancel_requested_at == first


async def test_a_task_in_a_thread_sees_that_it_is_cancelled(
    client: AsyncClient, submitter: Submitter, beating: TaskRunner, database: Database
) -> None:
    begun, seen = threading.Event(), threading.Event()

    @task(name="test.thread")
    def compute(context: TaskContext, _payload: None) -> None:
        begun.set()
        while not context.lost:
            time.sleep(0.005)
        seen.set()

    [task_id] = await submit_all(submitter, compute, [None])
    delivery = asyncio.create_task(beating.deliver())
    await until(begun.is_set)
    await client.post(f"/tasks/{task_id}/cancel")
    await until(seen.is_set)
    await delivery
    assert (await read(database, task_id)).status == "cancelled"


async def test_a_success_wins_over_a_cancellation_that_comes_too_late(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    asked = asyncio.Event()

    @task(name="test.quick")
    async def quick(_context: TaskContext, _payload: None) -> str:
        await asked.wait()
        return "done"

    [task_id] = await submit_all(submitter, quick, [None])
    delivery = asyncio.create_task(run_tasks.deliver())  # without a heartbeat nobody tells it
    await until(lambda: bool(run_tasks.worker.executor.runs))
    assert (await client.post(f"/tasks/{task_id}/cancel")).status_code == 202
    asked.set()
    await delivery
    record = await read(database, task_id)
    assert (record.status, record.result) == ("completed", "done")
    assert (await client.post(f"/tasks/{task_id}/cancel")).status_code == 409


async def test_an_attempt_that_fails_after_the_cancellation_is_not_followed_by_another(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    asked = asyncio.Event()

    @task(name="test.fails_late", retry=AT_ONCE)
    async def fails_late(_context: TaskContext, _payload: None) -> None:
        await asked.wait()
        raise TemporaryError

    [task_id] = await submit_all(submitter, fails_late, [None])
    delivery = asyncio.create_task(run_tasks.deliver())
    await until(lambda: bool(run_tasks.worker.executor.runs))
    await client.post(f"/tasks/{task_id}/cancel")
    asked.set()
    await delivery
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("cancelled", 1)


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_an_unknown_task_can_be_neither_cancelled_nor_retried(action: str, client: AsyncClient) -> None:
    response = await client.post(f"/tasks/{uuid4()}/{action}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_what_a_tasks_status_does_not_allow_is_a_conflict_that_names_it(
    client: AsyncClient, submitter: Submitter, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    for action, statuses in {
        "cancel": ("completed", "failed", "cancelled"),
        "retry": ("pending", "running", "completed"),
    }.items():
        for status in statuses:
            lease = LATER if status == "running" else None
            await change(database, task_id, status=status, lease_expires_at=lease)
            before = await read(database, task_id)
            response = await client.post(f"/tasks/{task_id}/{action}")
            assert response.status_code == 409, f"{action} of {status}"
            assert response.headers["Content-Type"] == "application/problem+json"
            assert status in response.json()["detail"]
            after = await read(database, task_id)
            assert (after.status, after.version, after.cancel_requested_at) == (status, before.version, None)


async def test_a_failed_task_runs_again_when_it_is_asked_to(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner, queue: InlineQueue
) -> None:
    works = False

    @task(name="test.mended", max_attempts=2, retry=AT_ONCE)
    async def mended(context: TaskContext, _payload: None) -> int:
        if not works:
            raise TaskFailed("not yet")
        return context.attempt

    accepted = await submitter.submit(NewTask.of(mended, None))
    [failed] = await run_tasks()
    assert failed.status == "failed"
    works = True
    response = await client.post(f"/tasks/{accepted.id}/retry")
    assert response.status_code == 202
    assert response.headers["Location"] == f"/tasks/{accepted.id}"
    assert response.headers["Retry-After"] == "1"
    shown = response.json()
    assert (shown["id"], shown["status"], shown["attempt"], shown["error"]) == (str(accepted.id), "pending", 0, None)
    assert queue.sent == [accepted.id]  # at once, not when recovery finds it
    [record] = await run_tasks()
    assert (record.status, record.result, record.error) == ("completed", 1, None)


async def test_a_cancelled_task_runs_again_and_is_not_cancelled_at_once(
    client: AsyncClient, submitter: Submitter, beating: TaskRunner, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1, 2]])
    await client.post(f"/tasks/{task_id}/cancel")
    await client.post(f"/tasks/{task_id}/retry")
    await beating.deliver()
    record = await read(database, task_id)
    assert (record.status, record.result) == ("completed", 3)


async def test_a_retry_clears_what_was_and_never_the_fence(
    client: AsyncClient, submitter: Submitter, database: Database
) -> None:
    [task_id] = await submit_all(submitter, refuse, ["no"])
    await change(
        database,
        task_id,
        status="failed",
        attempt=3,
        crashes=2,
        fence=7,
        error={"type": "x", "message": "y"},
        result=[1],
        progress={"fraction": 0.5, "message": ""},
        cancel_requested_at=LATER,
        started_at=LATER,
        finished_at=LATER,
    )
    before = await read(database, task_id)
    await client.post(f"/tasks/{task_id}/retry")
    record = await read(database, task_id)
    assert (record.status, record.attempt, record.crashes) == ("pending", 0, 0)
    assert (record.error, record.result, record.progress) == (None, None, None)
    assert (record.cancel_requested_at, record.started_at, record.finished_at) == (None, None, None)
    assert record.fence == 7
    assert record.version == before.version + 1


async def test_a_retry_is_accepted_while_the_broker_is_down_and_sent_later(
    client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner, queue: InlineQueue
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    await client.post(f"/tasks/{task_id}/cancel")
    queue.messages.clear()
    queue.broken = True
    assert (await client.post(f"/tasks/{task_id}/retry")).status_code == 202
    queue.broken = False
    [record] = await run_tasks()
    assert (record.id, record.status) == (task_id, "completed")
