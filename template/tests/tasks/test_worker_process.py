"""Real workers in real processes: they finish tasks, and what they leave behind is finished by others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.database import Database
from app.queues import create_queue
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskRecord
from tests.support.brokers import OwnBroker, own_broker
from tests.support.processes import WorkerProcess
from tests.support.records import read, read_all, submit_all
from tests.support.sample_tasks import add, block_until_file, break_down, fail_until, wait_for_file
from tests.support.waiting import PATIENCE_SECONDS, until

StartWorker = Callable[..., WorkerProcess]
WaitForTask = Callable[..., Awaitable[TaskRecord]]


async def test_a_real_worker_finishes_a_real_task(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask
) -> None:
    start_worker()
    accepted = await live_submitter.submit(NewTask.of(add, [1, 2, 3]))
    record = await wait_for_task(accepted.id)
    assert record.result == 6
    assert record.attempt == 1


async def test_a_killed_workers_task_runs_on_another(
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    settings: Settings,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    short_lease = settings.model_copy(update={"task_lease_seconds": 3.0})
    workers = [start_worker(short_lease) for _ in range(2)]
    accepted = await live_submitter.submit(NewTask.of(wait_for_file, str(gate)))
    running = await wait_for_task(accepted.id, "running")
    [first], [second] = ([worker for worker in workers if worker.runs(running) is has_it] for has_it in (True, False))
    first.kill()
    gate.touch()
    record = await wait_for_task(accepted.id)
    assert record.crashes == 1
    assert record.attempt == 1  # losing a worker is not the task's fault
    assert "worker lost with a task" in second.log


async def test_a_stopped_worker_hands_its_tasks_back_at_once(
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    settings: Settings,
    database: Database,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    long_lease = settings.model_copy(update={"task_lease_seconds": 600.0})
    first = start_worker(long_lease)
    accepted = await live_submitter.submit(NewTask.of(wait_for_file, str(gate)))
    await wait_for_task(accepted.id, "running")
    start_worker(long_lease)
    stopping = asyncio.create_task(asyncio.to_thread(first.stop))
    while not stopping.done():  # it is told to stop in the middle of its work
        await live_submitter.submit(NewTask.of(add, [1]))
    assert stopping.result() == 0
    gate.touch()
    await wait_for_task(accepted.id)
    records = [await wait_for_task(record.id) for record in await read_all(database)]
    assert {(record.crashes, record.attempt) for record in records} == {(0, 1)}
    assert "worker stopped" in first.log


async def test_sigterm_lets_tasks_end_within_the_grace_and_hands_the_rest_back_unused(
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_SEND_TIMEOUT", str(PATIENCE_SECONDS))
    graceful = settings.model_copy(update={"shutdown_grace_seconds": 5.0, "task_lease_seconds": 600.0})
    worker = start_worker(graceful)
    gates = [tmp_path / "quick", tmp_path / "slow"]
    quick, slow = await submit_all(live_submitter, wait_for_file, [str(gate) for gate in gates])
    for task_id in quick, slow:
        await wait_for_task(task_id, "running")
    stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
    await asyncio.to_thread(worker.wait_for, "worker stopping")
    gates[0].touch()
    await stopping
    ended = await wait_for_task(quick)
    assert (ended.attempt, ended.crashes) == (1, 0)
    handed_back = await wait_for_task(slow, "pending")
    assert (handed_back.attempt, handed_back.crashes, handed_back.lease_expires_at) == (0, 0, None)
    assert handed_back.sent_at is not None  # a message for it is under way again
    assert handed_back.fence == 1
    assert "task released" in worker.log


async def test_a_worker_ends_although_a_thread_does_not(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask, tmp_path: Path
) -> None:
    worker = start_worker()
    [task_id] = await submit_all(live_submitter, block_until_file, [str(tmp_path / "never")])
    await wait_for_task(task_id, "failed")
    assert await asyncio.to_thread(worker.stop) in {0, 1}  # the one where the process that is stuck is the only one


async def test_every_line_that_a_worker_logs_for_a_task_has_the_ids(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask
) -> None:
    worker = start_worker()
    tasks = {
        "order-1": NewTask.of(add, [1], correlation_id="order-1"),
        "order-2": NewTask.of(fail_until, 3, correlation_id="order-2"),
        "order-3": NewTask.of(break_down, None, correlation_id="order-3"),
    }
    for new in tasks.values():
        await live_submitter.submit(new)
    for new in tasks.values():
        await wait_for_task(new.id, "failed" if new.task is break_down else "completed")
    await asyncio.to_thread(worker.stop)

    lines = worker.events
    for correlation_id, new in tasks.items():
        own = [line for line in lines if line.get("task_id") == str(new.id)]
        assert {line["correlation_id"] for line in own} == {correlation_id}
        assert own == [line for line in lines if line.get("correlation_id") == correlation_id]
        assert {line["task"] for line in own} == {new.task.name}
        attempts = [line["attempt"] for line in own if line["event"] == "task started"]
        assert attempts == ([1, 2, 3] if new.task is fail_until else [1])
    assert any("ZeroDivisionError" in line.get("exception", "") for line in lines)


async def is_empty(submitter: Submitter) -> bool:
    """Tell whether all messages are acknowledged."""
    return await submitter.queue.depth("default") == 0


@pytest.fixture
def broker(settings: Settings, tmp_path: Path) -> Iterator[OwnBroker]:
    """A broker of the test's own."""
    with own_broker(tmp_path, settings) as broker:
        yield broker


async def test_a_worker_goes_on_when_its_broker_is_back_and_stops_when_it_is_not(
    broker: OwnBroker,
    database: Database,
    settings: Settings,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    tmp_path: Path,
) -> None:
    own = settings.model_copy(update={"broker_url": SecretStr(broker.url)})
    live_submitter = Submitter(database, create_queue(own))
    worker = start_worker(own)
    before = await live_submitter.submit(NewTask.of(add, [1]))
    await wait_for_task(before.id)

    broker.stop()
    meanwhile = await live_submitter.submit(NewTask.of(add, [2]))

    async def is_owed_a_message() -> bool:
        return (await read(database, meanwhile.id)).sent_at is None

    await until(is_owed_a_message)  # now and then the worker tries to send it
    assert worker.process.poll() is None
    broker.start()
    assert (await wait_for_task(meanwhile.id)).result == 2
    after = await live_submitter.submit(NewTask.of(wait_for_file, str(tmp_path / "gate")))
    await wait_for_task(after.id, "running")
    await until(lambda: is_empty(live_submitter))

    broker.stop()
    await asyncio.to_thread(worker.stop)
    record = await wait_for_task(after.id, "pending")  # handed back, although nobody can be told
    assert (record.attempt, record.crashes, record.sent_at) == (0, 0, None)
    await live_submitter.close()
    await live_submitter.queue.close()
