"""Work that computes, in processes: what it returns and raises, and that nothing of it outlives its task or worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from httpx import AsyncClient
from structlog.testing import capture_logs

from app.database import Database
from app.settings import Settings
from app.tasks import Submitter, TaskContext, TaskDefinitionError, task
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.process_tasks import double, overrun, run, stay
from tests.support.processes import WorkerProcess
from tests.support.records import read, submit_all
from tests.support.waiting import until


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it is not there, or goes while it is read
        return False


async def written_to(path: Path) -> int:
    """Wait for a process to have written its id to a file; return it."""

    def read() -> str:
        return path.read_text() if path.exists() else ""

    await until(lambda: read().isdigit())
    return int(read())


@pytest.fixture
async def beating(settings: Settings, database: Database, queue: InlineQueue) -> AsyncIterator[TaskRunner]:
    """A worker in this process that keeps its leases, and so learns of cancellations."""
    runner = TaskRunner(settings, database, queue)
    await runner.worker.start()
    yield runner
    await runner.worker.stop()


async def test_a_task_in_a_process_returns_and_fails_like_any_other(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    ended = {}
    with capture_logs() as log:
        for what in "return", "raise", "raise once", "refuse", "ask again", "read the database", "die":
            [task_id] = await submit_all(submitter, run, [what])  # one after the other, in the same process
            await run_tasks()
            ended[what] = await read(database, task_id)

    assert ended["return"].result[0] != os.getpid()
    assert ended["return"].result[1:] == [1, str(ended["return"].id), "processes.run", False]

    assert (ended["raise"].status, ended["raise"].attempt) == ("failed", 2)
    assert ended["raise"].error["type"] == "OwnError"
    assert "hunter2" not in str(ended["raise"].error)
    assert any("hunter2" in str(line.get("exc_info")) for line in log)
    assert (ended["raise once"].status, ended["raise once"].result[1]) == ("completed", 2)
    assert (ended["refuse"].status, ended["refuse"].attempt) == ("failed", 1)
    assert ended["refuse"].error == {"type": "TaskFailed", "message": "line 7 has no price"}
    assert (ended["ask again"].status, ended["ask again"].result[1]) == ("completed", 2)

    assert ended["read the database"].error["type"] == "AttributeError"
    assert any("context.in_process" in str(line.get("exc_info")) for line in log)

    # The process that dies takes its attempt along, and neither the worker nor the other tasks.
    assert (ended["die"].status, ended["die"].crashes) == ("failed", 0)
    assert ended["die"].error["type"] == "BrokenWorkerProcess"


async def test_the_process_is_killed_when_its_task_takes_too_long_or_is_cancelled(
    client: AsyncClient, submitter: Submitter, beating: TaskRunner, database: Database, tmp_path: Path
) -> None:
    @task(name="test.in_process")
    async def compute(context: TaskContext, number: int) -> list[int]:
        return await context.in_process(double, number, plus=1)

    [computed] = await submit_all(submitter, compute, [20])
    await beating.deliver()
    number, pid = (await read(database, computed)).result
    assert number == 41
    assert pid != os.getpid()
    assert is_alive(pid)  # it waits for the next one

    [late] = await submit_all(submitter, overrun, [60.0])
    await beating.deliver()
    assert (await read(database, late)).error["type"] == "timeout"
    await until(lambda: not is_alive(pid))

    [unwanted] = await submit_all(submitter, stay, [str(tmp_path / "pid")])
    delivery = asyncio.create_task(beating.deliver())
    pid = await written_to(tmp_path / "pid")
    assert is_alive(pid)
    await client.post(f"/tasks/{unwanted}/cancel")
    await delivery
    assert (await read(database, unwanted)).status == "cancelled"
    await until(lambda: not is_alive(pid))


async def test_a_process_ends_with_its_worker_however_that_ends(
    live_submitter: Submitter,
    start_worker: Callable[[], WorkerProcess],
    tmp_path: Path,
) -> None:
    worker = start_worker()
    await submit_all(live_submitter, stay, [str(tmp_path / "pid")])
    pid = await written_to(tmp_path / "pid")
    assert is_alive(pid)
    os.kill(worker.process.pid, signal.SIGKILL)
    await until(lambda: not is_alive(pid))


def test_an_async_task_cannot_be_declared_for_a_process() -> None:
    with pytest.raises(TaskDefinitionError, match=r"run_in=\"process\" is for `def`.*context\.in_process"):

        @task(name="test.async_process", run_in="process")
        async def compute(_context: TaskContext, _payload: None) -> None:
            pass
