"""What every engine must do, on its broker, with real workers: whichever process is killed, every task ends once."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.database import Database
from app.tasks import NewTask, Submitter, TaskRecord
from tests.support.bad_tasks import effect
from tests.support.processes import WorkerProcess
from tests.support.records import effects, read_all, submit_all
from tests.support.sample_tasks import add, wait_for_file

StartWorker = Callable[..., WorkerProcess]
WaitForTask = Callable[..., Awaitable[TaskRecord]]


def process_of_task(_worker: WorkerProcess, record: TaskRecord) -> int:
    """Return the process that runs the task."""
    assert record.worker is not None
    return int(record.worker.rpartition(":")[2])


def main_process(worker: WorkerProcess, _record: TaskRecord) -> int:
    """Return the process that was started."""
    return worker.process.pid


@pytest.mark.parametrize("victim", [process_of_task, main_process], ids=["process_of_task", "main_process"])
async def test_a_killed_process_costs_a_task_its_run_and_nothing_else(
    victim: Callable[[WorkerProcess, TaskRecord], int],
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    database: Database,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    first = start_worker()
    accepted = await live_submitter.submit(NewTask.of(wait_for_file, str(gate)))
    running = await wait_for_task(accepted.id, "running")
    start_worker()
    os.kill(victim(first, running), signal.SIGKILL)
    others = await submit_all(live_submitter, effect, [0.0] * 20)
    gate.touch()
    record = await wait_for_task(accepted.id)
    assert (record.crashes, record.attempt) == (1, 1)
    for task_id in others:
        await wait_for_task(task_id)
    assert sorted(name.split()[0] for name in await effects(database)) == sorted(map(str, others))


async def test_a_stopped_worker_ends_with_code_0_and_leaves_nothing_to_be_recovered(
    live_submitter: Submitter, start_worker: StartWorker, database: Database
) -> None:
    worker = start_worker()
    await submit_all(live_submitter, add, [[1]] * 50)
    assert await asyncio.to_thread(worker.stop) == 0, worker.log
    assert {record.status for record in await read_all(database)} <= {"pending", "completed"}


async def test_a_message_that_comes_twice_runs_a_task_once(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask, database: Database
) -> None:
    ids = await submit_all(live_submitter, effect, [0.0] * 5)
    for _ in range(3):
        await live_submitter.resend(ids)
    start_worker()
    for task_id in ids:
        await wait_for_task(task_id)
    last = await submit_all(live_submitter, effect, [0.0])
    await wait_for_task(*last)
    assert sorted(name.split()[0] for name in await effects(database)) == sorted(map(str, ids + last))
