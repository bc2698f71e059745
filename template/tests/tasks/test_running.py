"""Running: how an attempt ends, what the record says of it, and what follows."""

import asyncio
import threading

import pytest
from httpx import AsyncClient
from structlog.testing import capture_logs

from app.database import Database
from app.tasks import NewTask, Submitter, TaskContext, TaskFailed, task
from app.tasks.settlement import Released, Settler
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LATER, change, read, seconds_until_run, submit_all
from tests.support.sample_tasks import (
    AT_ONCE,
    TemporaryError,
    add,
    ask_again,
    break_down,
    fail_until,
    overrun,
    refuse,
)
from tests.support.waiting import PATIENCE_SECONDS, until

SECRET = "hunter2"  # what the sample tasks' errors say


async def test_a_task_completes_with_its_result(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submitter.submit(NewTask.of(add, [1, 2, 3]))
    [record] = await run_tasks()
    assert (record.status, record.result, record.error, record.attempt) == ("completed", 6, None, 1)
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.created_at <= record.started_at <= record.finished_at
    assert record.progress is None  # it told none


async def test_an_error_that_is_not_retried_fails_the_task(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submitter.submit(NewTask.of(break_down, None))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.result) == ("failed", 1, None)
    assert record.error["type"] == "ZeroDivisionError"


async def test_an_unexpected_errors_text_is_in_the_log_and_not_in_the_record(
    submitter: Submitter, run_tasks: TaskRunner, client: AsyncClient
) -> None:
    accepted = await submitter.submit(NewTask.of(break_down, None))
    with capture_logs() as log:
        await run_tasks()
    assert SECRET not in (await client.get(f"/tasks/{accepted.id}")).text
    assert [line["log_level"] for line in log if SECRET in str(line.get("exc_info"))] == ["error"]


async def test_a_temporary_error_is_followed_by_attempts_until_one_succeeds(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    accepted = await submitter.submit(NewTask.of(fail_until, 3))
    await run_tasks.deliver()
    between = await read(database, accepted.id)
    assert (between.status, between.attempt) == ("pending", 1)
    assert between.error["type"] == "TemporaryError"
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.result, record.error) == ("completed", 3, 3, None)


async def test_a_task_fails_when_its_attempts_are_used_up(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submitter.submit(NewTask.of(fail_until, 99))
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("failed", 3)
    assert record.error["type"] == "TemporaryError"


async def test_the_next_attempt_waits_as_the_policy_says(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.default_policy")
    async def fail(_context: TaskContext, _payload: None) -> None:
        raise TemporaryError

    accepted = await submitter.submit(NewTask.of(fail, None))
    await change(database, accepted.id, attempt=4, max_attempts=9)
    await run_tasks.deliver()
    # The fifth attempt failed: 16 s, of which up to half is left to chance.
    assert 7 < await seconds_until_run(database, accepted.id) <= 16


async def test_an_attempt_that_takes_too_long_is_ended_and_repeated(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    await submitter.submit(NewTask.of(overrun, 60.0))
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("failed", 2)
    assert record.error == {"type": "timeout", "message": "The task ran longer than 0.1 s."}


async def test_a_tasks_own_timeout_error_is_not_taken_for_its_timeout(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.inner_timeout", max_attempts=1)
    async def wait_in_vain(_context: TaskContext, _payload: None) -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    await submitter.submit(NewTask.of(wait_in_vain, None))
    [record] = await run_tasks()
    assert record.error["type"] == "TimeoutError"


async def test_a_failure_on_purpose_is_final_and_its_message_is_for_the_client(
    submitter: Submitter, run_tasks: TaskRunner, client: AsyncClient
) -> None:
    accepted = await submitter.submit(NewTask.of(refuse, "line 7 has no price"))
    await run_tasks()
    shown = (await client.get(f"/tasks/{accepted.id}")).json()
    assert (shown["status"], shown["attempt"]) == ("failed", 1)
    assert shown["error"] == {"type": "TaskFailed", "message": "line 7 has no price"}


async def test_a_task_may_ask_for_another_attempt_at_a_time_of_its_choice(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    accepted = await submitter.submit(NewTask.of(ask_again, 3600.0))
    await run_tasks.deliver()
    assert (await read(database, accepted.id)).status == "pending"
    assert 3500 < await seconds_until_run(database, accepted.id) <= 3600
    [record] = await run_tasks()
    assert (record.status, record.result) == ("completed", 2)


async def test_asking_for_more_attempts_than_allowed_fails_the_task(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.never_content", max_attempts=2, retry_on=())
    async def never_content(context: TaskContext, _payload: None) -> None:
        context.retry(after=0.01)

    await submitter.submit(NewTask.of(never_content, None))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.error["type"]) == ("failed", 2, "retry")


@pytest.mark.parametrize("after", [-1.0, float("nan"), float("inf"), 1e30])
async def test_asking_for_an_impossible_time_fails_the_attempt(
    after: float, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.impossible", max_attempts=2, retry=AT_ONCE)
    async def impossible(context: TaskContext, _payload: None) -> None:
        context.retry(after=after)

    await submitter.submit(NewTask.of(impossible, None))
    [record] = await run_tasks()
    assert (record.status, record.error["type"]) == ("failed", "ValueError")


async def test_progress_is_seen_while_a_task_runs_and_is_whole_at_its_end(
    submitter: Submitter, run_tasks: TaskRunner, client: AsyncClient
) -> None:
    told, go_on = asyncio.Event(), asyncio.Event()

    @task(name="test.paced")
    async def paced(context: TaskContext, _payload: None) -> None:
        await context.progress(0.4, "rendering")
        told.set()
        await go_on.wait()

    accepted = await submitter.submit(NewTask.of(paced, None))
    running = asyncio.create_task(run_tasks())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.wait()
    shown = (await client.get(f"/tasks/{accepted.id}")).json()
    assert (shown["status"], shown["progress"]) == ("running", {"fraction": 0.4, "message": "rendering"})
    go_on.set()
    [record] = await running
    assert (record.status, record.progress) == ("completed", {"fraction": 1.0, "message": ""})


async def test_progress_stays_within_its_bounds(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    @task(name="test.boast")
    async def boast(context: TaskContext, _payload: None) -> None:
        await context.progress(7, "nul \0\udcff" + "x" * 1000)
        raise TaskFailed

    await submitter.submit(NewTask.of(boast, None))
    [record] = await run_tasks()
    assert record.progress["fraction"] == 1
    assert record.progress["message"] == "nul ?" + "x" * 194


async def test_a_def_task_runs_in_a_thread(submitter: Submitter, run_tasks: TaskRunner) -> None:
    threads: list[threading.Thread] = []

    @task(name="test.compute")
    def compute(_context: TaskContext, number: int) -> int:
        threads.append(threading.current_thread())
        return number * 2

    await submitter.submit(NewTask.of(compute, 21))
    [record] = await run_tasks()
    assert record.result == 42
    assert threads != [threading.main_thread()]


async def test_a_thread_sees_that_its_attempt_has_timed_out(submitter: Submitter, run_tasks: TaskRunner) -> None:
    seen = threading.Event()

    @task(name="test.endless", timeout=0.1, max_attempts=1)
    def endless(context: TaskContext, _payload: None) -> None:
        while not context.lost:
            threading.Event().wait(0.005)
        seen.set()

    await submitter.submit(NewTask.of(endless, None))
    [record] = await run_tasks()
    assert record.error["type"] == "timeout"
    await until(seen.is_set)


async def test_blocking_work_does_not_hold_up_other_tasks(submitter: Submitter, run_tasks: TaskRunner) -> None:
    gate = threading.Event()

    @task(name="test.blocked")
    async def blocked(context: TaskContext, _payload: None) -> bool:
        return await context.in_thread(gate.wait, PATIENCE_SECONDS)

    @task(name="test.opener")
    async def opener(_context: TaskContext, _payload: None) -> None:
        gate.set()

    for waiting_or_not in blocked, opener:
        await submitter.submit(NewTask.of(waiting_or_not, None))
    record, _ = await run_tasks()
    assert record.result is True


@pytest.mark.parametrize("exit_code", [0, 3])
async def test_a_task_that_exits_ends_itself_and_not_the_worker(
    exit_code: int, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.exit", max_attempts=1)
    async def leave(_context: TaskContext, _payload: None) -> None:
        raise SystemExit(exit_code)

    await submitter.submit(NewTask.of(leave, None))
    await submitter.submit(NewTask.of(add, [1]))
    left, other = await run_tasks()
    assert (left.status, left.error["type"]) == ("failed", "RuntimeError")
    assert other.status == "completed"


async def test_a_task_that_is_handed_back_is_sent_again_at_once(
    submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    queue.messages.clear()
    await change(database, task_id, status="running", fence=1, attempt=1, lease_expires_at=LATER)
    assert await Settler(database, submitter).settle((task_id, 1), Released())
    assert queue.sent == [task_id]


async def test_a_message_has_its_room_from_its_delivery_to_the_end_of_its_task(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    await submit_all(submitter, add, [[1]])
    [message] = run_tasks.queue.messages
    executor = run_tasks.worker.executor
    room = executor.room
    delivery = asyncio.create_task(executor.deliver(message))
    while not delivery.done():
        await asyncio.sleep(0)
        assert executor.room == room - 1
    await executor.join()
    assert executor.room == room
