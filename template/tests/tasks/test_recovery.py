"""Recovery: what the queue or a worker has lost is delivered again, and nothing that only waits."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from app.database import Database, now, plus
from app.queues.base import Message
from app.settings import Settings
from app.tasks import Submitter, TaskContext, task
from app.tasks.models import TaskQueueRecord
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LONG_AGO, change, read, read_all, seconds_until_run, submit_all
from tests.support.sample_tasks import add, block_until_file
from tests.support.waiting import PATIENCE_SECONDS, until

A_WHILE_AGO = plus(now(), -10)


@pytest.fixture
async def lost(submitter: Submitter, queue: InlineQueue, database: Database) -> UUID:
    """A task whose message was lost ten seconds ago."""
    [task_id] = await submit_all(submitter, add, [[1, 2]])
    queue.messages.clear()
    await change(database, task_id, sent_at=A_WHILE_AGO)
    return task_id


@pytest.fixture
async def other(settings: Settings, database: Database, queue: InlineQueue) -> AsyncIterator[TaskRunner]:
    """A second worker, on the same queue."""
    runner = TaskRunner(settings, database, queue)
    yield runner
    await runner.worker.stop()


async def let_time_pass_for_probes(database: Database) -> None:
    """Make the last probe older than a new one must be."""
    async with database.begin() as connection:
        await connection.execute(update(TaskQueueRecord).values(probed_at=LONG_AGO))


async def test_a_lost_message_is_sent_again_once_a_later_one_has_arrived(
    lost: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    recovery = run_tasks.worker.recovery
    await recovery.tick()
    assert [message.ids for message in queue.messages] == [()]  # a probe, to see whether messages arrive
    await recovery.tick()
    assert queue.sent == []

    await run_tasks.deliver()  # the probe arrives, so what was sent long before it is lost
    await recovery.tick()
    assert queue.sent == [lost]
    await run_tasks.deliver()
    assert (await read(database, lost)).result == 3


async def test_messages_that_wait_in_a_long_queue_are_not_sent_again(
    lost: UUID, submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    [waiting] = await submit_all(submitter, add, [[1]])
    recovery = run_tasks.worker.recovery
    for _ in range(3):
        await recovery.tick()
    assert queue.sent == [waiting]  # nothing later has arrived: both may wait
    probe = queue.messages[-1]
    assert probe.ids == ()
    await change(database, waiting, sent_at=probe.sent_at)  # however long that took
    queue.messages = [message for message in queue.messages if message is not probe]
    await run_tasks.worker.deliver(probe)
    await recovery.tick()
    # What was sent shortly before the message that has arrived may still be under way.
    assert queue.sent == [waiting, lost]


async def test_probes_are_sent_now_and_then_by_all_workers_together(
    lost: UUID,
    queue: InlineQueue,
    run_tasks: TaskRunner,
    other: TaskRunner,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.tasks.recovery.PROBE_SECONDS", 600)
    for _ in range(3):
        await asyncio.gather(run_tasks.worker.recovery.tick(), other.worker.recovery.tick())
    assert [message.ids for message in queue.messages] == [()]
    await let_time_pass_for_probes(database)
    await asyncio.gather(run_tasks.worker.recovery.tick(), other.worker.recovery.tick())
    assert [message.ids for message in queue.messages] == [(), ()]


async def test_an_idle_service_sends_no_probes(queue: InlineQueue, run_tasks: TaskRunner) -> None:
    await run_tasks.worker.recovery.tick()
    assert queue.messages == []


async def test_what_another_worker_has_seen_arrive_counts_too(
    lost: UUID, queue: InlineQueue, run_tasks: TaskRunner, other: TaskRunner
) -> None:
    await run_tasks.worker.recovery.tick()
    await other.deliver()
    await other.worker.recovery.tick()
    assert queue.sent == [lost]


async def test_a_message_with_a_time_to_come_does_not_make_all_others_look_lost(
    submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    [waiting] = await submit_all(submitter, add, [[1]])
    recovery = run_tasks.worker.recovery
    await run_tasks.worker.deliver(Message("default", (), datetime.now(UTC) + timedelta(days=365)))
    for _ in range(3):
        await recovery.tick()
    assert queue.sent == [waiting]

    # And what really arrives later is noted all the same.
    await change(database, waiting, sent_at=A_WHILE_AGO)
    await run_tasks.worker.deliver(Message("default", (), datetime.now(UTC)))
    await recovery.tick()
    assert queue.sent == [waiting, waiting]


async def test_a_message_sent_through_another_engine_is_sent_through_this_one(
    lost: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    await change(database, lost, sent_via="engine+broker of before")
    await run_tasks.worker.recovery.tick()
    assert queue.sent == [lost]
    assert (await read(database, lost)).sent_via == queue.via


async def test_two_workers_send_what_is_owed_once(
    submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner, other: TaskRunner
) -> None:
    queue.broken = True
    ids = await submit_all(submitter, add, ([number] for number in range(30)))
    queue.broken = False
    await asyncio.gather(run_tasks.worker.recovery.tick(), other.worker.recovery.tick())
    assert sorted(queue.sent) == ids


@pytest.mark.parametrize("sent_at", [None, A_WHILE_AGO])
async def test_a_task_that_no_worker_knows_waits_unsent_and_unclaimed(
    sent_at: Any, lost: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    await change(database, lost, name="nobody.knows", sent_at=sent_at)
    await run_tasks.worker.recovery.tick()
    assert queue.sent == []
    await run_tasks.deliver()
    await run_tasks.worker.recovery.tick()
    assert queue.sent == []
    await run_tasks.worker.deliver(Message("default", (lost,), (await read(database, lost)).created_at))
    await run_tasks.worker.executor.join()
    await run_tasks.worker.recovery.tick()
    assert queue.sent == []
    record = await read(database, lost)
    assert (record.status, record.attempt, record.fence) == ("pending", 0, 0)


async def test_a_message_that_comes_twice_runs_its_task_once(
    submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    runs: list[UUID] = []

    @task(name="test.count")
    async def count_runs(context: TaskContext, _payload: None) -> None:
        runs.append(context.task_id)

    ids = await submit_all(submitter, count_runs, [None, None])
    queue.messages *= 3
    await run_tasks()
    assert sorted(runs) == ids


async def test_what_a_full_worker_has_no_room_for_goes_back_to_the_queue(
    settings: Settings, submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    small = TaskRunner(settings.model_copy(update={"worker_concurrency": 2}), database, queue)
    ids = await submit_all(submitter, add, ([number] for number in range(7)))
    sent_at = queue.messages[0].sent_at
    queue.messages = [Message("default", tuple(ids), sent_at)]
    await small.deliver()
    assert [record.status for record in await read_all(database)].count("completed") == 2
    assert sorted(queue.sent) == ids[2:]
    assert len(queue.messages) == 2  # in two halves, for two others
    records = await small()
    assert [record.result for record in records] == list(range(7))
    await small.worker.stop()


async def test_a_thread_that_goes_on_keeps_its_place_in_the_worker(
    settings: Settings, submitter: Submitter, queue: InlineQueue, database: Database, tmp_path: Path
) -> None:
    narrow = TaskRunner(settings.model_copy(update={"worker_concurrency": 1}), database, queue)
    [stuck] = await submit_all(submitter, block_until_file, [str(tmp_path / "gate")])
    [waiting] = await submit_all(submitter, add, [[1]])
    [first, second], queue.messages = queue.messages, []
    await narrow.worker.deliver(first)

    async def has_timed_out() -> bool:
        return (await read(database, stuck)).status == "failed"

    await until(has_timed_out)
    await narrow.worker.deliver(second)
    assert (await read(database, waiting)).status == "pending"
    assert queue.sent == [waiting]
    (tmp_path / "gate").touch()
    assert [record.status for record in await narrow()] == ["failed", "completed"]
    await narrow.worker.stop()


async def test_tasks_that_lost_a_worker_run_one_at_a_time(
    submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task(name="test.suspect")
    async def suspect(_context: TaskContext, _payload: None) -> None:
        begun.set()
        await go_on.wait()

    first, second = await submit_all(submitter, suspect, [None, None])
    for task_id in first, second:
        await change(database, task_id, crashes=1)
    [message, other], queue.messages = queue.messages, []
    await run_tasks.worker.deliver(message)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
    await run_tasks.worker.deliver(other)
    assert (await read(database, second)).status == "pending"
    assert await seconds_until_run(database, second) > 0
    go_on.set()
    assert [record.status for record in await run_tasks()] == ["completed"] * 2
    assert [record.attempt for record in await read_all(database)] == [1, 1]
