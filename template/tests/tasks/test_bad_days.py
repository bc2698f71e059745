"""Bad days, with real processes: workers that are killed or stand still, and a broker or database that goes away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import APIRouter
from httpx import AsyncClient
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.database import Database
from app.settings import Settings
from app.tasks import Submitter, TaskAccepted, TaskRecord, Tasks, store
from app.tasks.heartbeat import Heartbeat
from app.tasks.worker import Worker
from tests.support.bad_tasks import effect, effect_after_file, go_on, hold_loop, kill_worker
from tests.support.brokers import OwnBroker, own_broker
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.outage import FickleDatabase, fickle_database
from tests.support.processes import ServiceProcess, WorkerProcess
from tests.support.records import LONG_AGO, change, effects, read, read_all, submit_all
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_SECONDS, until

StartWorkers = Callable[..., list[WorkerProcess]]
WaitForTask = Callable[..., Awaitable[TaskRecord]]

router = APIRouter(prefix="/effects")


@router.post("", status_code=202)
async def create(tasks: Tasks, seconds: float = 0) -> TaskAccepted:
    """Have something written after so many seconds."""
    return await tasks.submit(effect, seconds)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The test's settings, with a lease that runs out soon."""
    return settings.model_copy(update={"task_lease_seconds": 3.0})


@pytest.fixture
def start_workers(settings: Settings, tmp_path: Path, started: list[ServiceProcess], live_broker: None) -> StartWorkers:
    """Starts real worker processes at the same time: `a, b = start_workers(2)`."""

    def start(count: int, other: Settings | None = None) -> list[WorkerProcess]:
        new = [WorkerProcess(other or settings, tmp_path / f"{len(started) + n}.log") for n in range(count)]
        started.extend(new)
        for worker in new:
            worker.wait_for("worker started")
        return new

    return start


@pytest.fixture
def broker(settings: Settings, tmp_path: Path) -> Iterator[OwnBroker]:
    """A broker of this test's own; when it is started again, it is empty."""
    with own_broker(tmp_path / "broker", settings) as broker:
        yield broker


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Database]:
    """Give another database than the test's usual one."""
    database = Database(url, pool_size=2)
    yield database
    await database.close()


async def traces(database: Database) -> list[UUID]:
    """Return the tasks whose effects are there, as often as they are."""
    return sorted(UUID(name.split()[0]) for name in await effects(database))


async def test_a_task_that_kills_its_workers_is_given_up_and_its_neighbours_live(
    live_submitter: Submitter, start_workers: StartWorkers, wait_for_task: WaitForTask, database: Database
) -> None:
    start_workers(4)
    neighbours = await submit_all(live_submitter, effect, [0.2] * 6)
    [killer] = await submit_all(live_submitter, kill_worker, [None])
    neighbours += await submit_all(live_submitter, effect, [0.2] * 6)
    record = await wait_for_task(killer, "failed")
    assert record.error == store.WORKER_LOST
    assert record.crashes == 3
    for neighbour in neighbours:
        await wait_for_task(neighbour)
    assert await traces(database) == sorted(neighbours)


async def test_a_worker_that_stood_still_past_its_lease_can_change_nothing_any_more(
    live_submitter: Submitter,
    start_workers: StartWorkers,
    wait_for_task: WaitForTask,
    database: Database,
    tmp_path: Path,
) -> None:
    workers = start_workers(2)
    [task_id] = await submit_all(live_submitter, effect_after_file, [str(tmp_path / "gate")])
    running = await wait_for_task(task_id, "running")
    [late] = [worker for worker in workers if worker.runs(running)]
    await late.stand_still(database)
    (tmp_path / "gate").touch()
    taken_over = await wait_for_task(task_id)
    assert (taken_over.crashes, taken_over.attempt, taken_over.fence) == (1, 1, 2)
    late.signal(signal.SIGCONT)
    await asyncio.to_thread(late.wait_for, "task lost to another worker")
    assert await traces(database) == [task_id]
    after = await read(database, task_id)
    assert (after.status, after.version, after.worker) == ("completed", taken_over.version, taken_over.worker)


async def test_a_task_that_blocks_the_loop_keeps_its_lease(
    settings: Settings, submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    lease = 9.0
    runner = TaskRunner(settings.model_copy(update={"task_lease_seconds": lease}), database, queue)
    # The heartbeat alone: the rest of a worker shares the blocked loop, and has nothing to do with it.
    executor = runner.worker.executor
    heartbeat = Heartbeat(settings.database_url.get_secret_value(), lease, lambda: list(executor.runs.values()))
    heartbeat.start()
    [task_id] = await submit_all(submitter, hold_loop, [PATIENCE_SECONDS])
    leases: set[datetime] = set()

    async def watch() -> None:
        """From another thread, let the task go on once its lease has been renewed twice."""
        async with reading(settings.database_url.get_secret_value()) as others:

            async def is_renewed_twice() -> bool:
                record = await read(others, task_id)
                if record.lease_expires_at is not None:
                    leases.add(record.lease_expires_at)
                return len(leases) == 3

            await until(is_renewed_twice)
        go_on.set()

    go_on.clear()
    watching = asyncio.create_task(asyncio.to_thread(asyncio.run, watch()))
    await runner.deliver()
    await watching
    heartbeat.stop()
    await runner.worker.stop()
    record = await read(database, task_id)
    assert (record.status, record.fence, record.crashes) == ("completed", 1, 0)
    assert await traces(database) == [task_id]


async def test_while_the_broker_is_frozen_gone_or_emptied_tasks_are_accepted_and_run_when_it_is_back(
    settings: Settings, broker: OwnBroker, start_workers: StartWorkers, database: Database, wait_for_task: WaitForTask
) -> None:
    own = settings.model_copy(update={"broker_url": SecretStr(broker.url)})
    async with serving(own, None, router) as client:
        [worker] = start_workers(1, own)

        async def accept(count: int) -> list[UUID]:
            async with asyncio.timeout(PATIENCE_SECONDS):  # it is a quarter of a second each, on a machine with time
                answers = [await client.post("/effects") for _ in range(count)]
            assert [answer.status_code for answer in answers] == [202] * count
            return [UUID(answer.json()["id"]) for answer in answers]

        async def all_run(ids: list[UUID]) -> None:
            for task_id in ids:
                await wait_for_task(task_id)

        broker.freeze()
        ids = await accept(3)
        assert {record.status for record in await read_all(database)} == {"pending"}
        broker.thaw()
        await all_run(ids)

        await asyncio.to_thread(broker.stop)
        ids += await accept(3)
        assert worker.process.poll() is None
        broker.start()
        await all_run(ids)

        await worker.stand_still(database)  # so that messages wait in the broker
        waiting = await accept(3)
        await asyncio.to_thread(broker.stop)
        broker.start()
        for task_id in waiting:
            await change(database, task_id, sent_at=LONG_AGO)  # what was sent just now may still be under way
        worker.signal(signal.SIGCONT)
        await all_run(waiting)
        assert "messages lost, sending again" in worker.log
    assert await traces(database) == sorted(ids + waiting)


async def test_a_database_that_is_away_for_a_while_costs_nothing_but_time(
    settings: Settings, tmp_path: Path, start_workers: StartWorkers
) -> None:
    with fickle_database(tmp_path / "database") as fickle:
        own = settings.model_copy(update={"database_url": SecretStr(fickle.url)})
        [worker] = start_workers(1, own)
        async with reading(fickle.url) as database, serving(own, None, router) as client:
            accepted = await keep_submitting(client, fickle, worker)

            async def have_ended() -> bool:
                return {record.status for record in await read_all(database)} == {"completed"}

            await until(have_ended)
            assert sorted(record.id for record in await read_all(database)) == sorted(accepted)
            assert await traces(database) == sorted(accepted)  # each once


async def keep_submitting(client: AsyncClient, fickle: FickleDatabase, worker: WorkerProcess) -> list[UUID]:
    """Submit before, while and after the database is away for longer than the lease; return what was accepted."""
    accepted: list[UUID] = []
    seen: list[int] = []
    over = False

    async def submit(seconds: float = 0) -> int:
        answer = await client.post("/effects", params={"seconds": seconds})
        seen.append(answer.status_code)
        if answer.status_code == 202:
            accepted.append(UUID(answer.json()["id"]))
        else:
            assert answer.status_code == 503, answer.text
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["Retry-After"]
        return answer.status_code

    async def hammer() -> None:
        while not over:
            await submit()
            await asyncio.sleep(0.05)

    assert await submit(12.0) == 202  # it still waits when its lease runs out
    await asyncio.to_thread(worker.wait_for, "task started")
    hammering = asyncio.create_task(hammer())
    await asyncio.to_thread(fickle.take_away)
    await until(lambda: 503 in seen or hammering.done())
    await asyncio.to_thread(worker.wait_for, "heartbeat missed")
    await asyncio.to_thread(worker.wait_for, "task stopped, its lease could not be renewed")
    fickle.bring_back()
    seen.clear()
    await until(lambda: 202 in seen or hammering.done())
    over = True
    await hammering
    return accepted


async def test_with_the_database_down_at_the_start_api_and_worker_say_so_and_keep_trying(
    without_database: Settings, queue: InlineQueue
) -> None:
    with capture_logs() as log:
        worker = Worker(without_database, queue)
        await worker.start()
        async with serving(without_database, queue, router) as client:
            refused = await client.post("/effects")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert "database" in refused.json()["detail"]
            assert (await client.get("/health/live")).status_code == 200

        await until(lambda: [line["event"] for line in log].count("database unavailable") >= 2)
        await worker.stop()
