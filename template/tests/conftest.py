"""Servers, databases and clients for the tests. Copy the fixtures' use from the tests beside this file."""

import os

os.environ["ENV_FILE"] = os.devnull  # a developer's .env is not for tests; set before the settings are imported

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy import make_url

import tests.support.sample_tasks  # noqa: F401 (registers them)
from app.database import Database
from app.queues import create_queue
from app.settings import Settings
from app.tasks import Submitter, TaskRecord
from scripts.servers import embedded_servers
from scripts.servers.process import free_port, running
from tests.support import brokers, databases
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.processes import CONCURRENCY, ROOT, ServiceProcess, WorkerProcess, own_settings
from tests.support.serving import serving

SERVERS = ExitStack()
PATIENCE_SECONDS = 60


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once for the run, in its first process, and migrate the database that tests copy."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    folder = Path(SERVERS.enter_context(tempfile.TemporaryDirectory(prefix="servers-", ignore_cleanup_errors=True)))
    brokers.find_shared_broker()
    for server in embedded_servers(folder, durable=False):
        if (name := f"TEST_{server.variable}") not in os.environ:
            os.environ[name] = os.environ.get(server.variable) or SERVERS.enter_context(running(server))
    server_url = os.environ["TEST_DATABASE_URL"]
    migrated = databases.create_migrated(server_url)
    SERVERS.callback(databases.drop, server_url, migrated)
    os.environ["TEST_MIGRATED_URL"] = migrated
    alembic = [sys.executable, "-m", "alembic", "upgrade", "heads"]
    done = subprocess.run(
        alembic, cwd=ROOT, env=os.environ | {"DATABASE_URL": migrated}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise pytest.UsageError(f"the migrations failed:\n{done.stdout}{done.stderr}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Clear away, and stop the servers."""
    if server_url := os.environ.get("TEST_DATABASE_URL"):
        databases.drop_copies(server_url)
    if not hasattr(config, "workerinput"):
        SERVERS.close()


@pytest.fixture
def database_url() -> Iterator[str]:
    """A migrated database of this test's own."""
    with databases.copied(os.environ["TEST_DATABASE_URL"], os.environ["TEST_MIGRATED_URL"]) as url:
        yield url


@pytest.fixture
def settings(database_url: str) -> Iterator[Settings]:
    """Settings with a database and a key prefix of this test's own; `get_settings` gives them.

    A lease lasts a busy machine, and its heartbeat brings a cancellation soon.
    """
    settings = Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(os.environ["TEST_BROKER_URL"]),
        broker_prefix=f"test-{uuid4().hex[:12]}",
        task_lease_seconds=9.0,
        shutdown_grace_seconds=0.5,
        database_pool_size=5,
        worker_concurrency=CONCURRENCY,
    )
    with own_settings(settings):
        yield settings


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The test's database, open."""
    database = Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
    yield database
    await database.close()


@pytest.fixture
async def without_database(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with a database that cannot be reached."""
    async with databases.unreachable(os.environ["TEST_DATABASE_URL"]) as url:
        yield settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.fixture
def without_broker(settings: Settings) -> Settings:
    """Settings with a broker that cannot be reached."""
    url = make_url(settings.broker_url.get_secret_value()).set(port=free_port())
    return settings.model_copy(update={"broker_url": SecretStr(url.render_as_string(hide_password=False))})


@pytest.fixture
def queue() -> InlineQueue:
    """A queue in memory; what it holds is run by `run_tasks`."""
    return InlineQueue()


@pytest.fixture
async def submitter(database: Database, queue: InlineQueue) -> AsyncIterator[Submitter]:
    """Submits tasks without a request: `await submitter.submit(NewTask.of(my_task, payload))`."""
    submitter = Submitter(database, queue)
    yield submitter
    await submitter.close()


@pytest.fixture
def live_broker(settings: Settings) -> Iterator[None]:
    """The real broker, with queues of this test's own."""
    brokers.require_shared_broker()
    yield
    brokers.forget_queues(settings)


@pytest.fixture
def patient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process wait for the broker's answers for as long as a busy machine needs."""
    engine = sys.modules[type(create_queue(settings)).__module__]
    monkeypatch.setattr(engine, "SEND_TIMEOUT_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
async def live_submitter(
    settings: Settings, database: Database, live_broker: None, patient: None
) -> AsyncIterator[Submitter]:
    """Submits tasks without a request, through the real broker to the workers that `start_worker` starts."""
    queue = create_queue(settings)
    submitter = Submitter(database, queue)
    yield submitter
    await submitter.close()
    await queue.close()


@pytest.fixture
async def run_tasks(settings: Settings, database: Database, queue: InlineQueue) -> AsyncIterator[TaskRunner]:
    """Runs all submitted tasks to their end, in this process: `records = await run_tasks()`."""
    runner = TaskRunner(settings, database, queue)
    yield runner
    await runner.worker.stop()


@pytest.fixture
async def client(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of the API whose tasks go to `run_tasks`."""
    async with serving(settings, queue) as client:
        yield client


@pytest.fixture
async def live_client(settings: Settings, live_broker: None, patient: None) -> AsyncIterator[AsyncClient]:
    """A client of the API whose tasks go through the real broker to the workers that `start_worker` starts."""
    async with serving(settings) as client:
        yield client


@pytest.fixture
def started() -> Iterator[list[ServiceProcess]]:
    """The processes that the test has started: all of them are killed at its end."""
    processes: list[ServiceProcess] = []
    yield processes
    for process in processes:
        process.kill()


@pytest.fixture
def start_worker(
    settings: Settings, tmp_path: Path, started: list[ServiceProcess], live_broker: None
) -> Callable[..., WorkerProcess]:
    """Starts real workers: `worker = start_worker()`; other settings and options of the command line may follow."""

    def start(other: Settings | None = None, *options: str) -> WorkerProcess:
        worker = WorkerProcess(other or settings, tmp_path / f"worker-{len(started)}.log", *options)
        started.append(worker)
        worker.wait_for("worker started")
        return worker

    return start


@pytest.fixture
def wait_for_task(database: Database) -> Callable[..., Awaitable[TaskRecord]]:
    """Waits until a task has a status: `record = await wait_for_task(task_id, "completed")`."""

    async def wait(task_id: UUID | str, status: str = "completed") -> TaskRecord:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            async with database.read() as session:
                record: Any = await session.get(TaskRecord, UUID(str(task_id)))
            if record is not None and record.status == status:
                found: TaskRecord = record
                return found
            shown = record and (record.status, record.error)
            assert time.monotonic() < deadline, f"the task is {shown}, not {status}"
            await asyncio.sleep(0.02)

    return wait
