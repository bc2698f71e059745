"""Celery: what somebody else puts into the queue does no harm, what hangs is killed, and threads overlap."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Producer

from app.database import Database
from app.queues.celery import DELIVER, create_celery, declared_queue
from app.queues.celery_broker import transport_options
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskRecord
from tests.support.processes import ROOT, WorkerProcess, environment
from tests.support.records import read, read_all, submit_all
from tests.support.sample_tasks import add, wait_for_file
from tests.support.stuck_tasks import sleep_in_thread, sleep_on_loop
from tests.support.waiting import PATIENCE_SECONDS, until

LISTENS = r"celery@.* ready"
"""What a worker logs once it can be asked something; what is asked before is lost."""
RECOVERS = "this process recovers for its worker"
SENT_AT = "2026-01-01T00:00:00+00:00"

StartWorker = Callable[..., WorkerProcess]
WaitForTask = Callable[..., Awaitable[TaskRecord]]


@pytest.fixture
def broker(settings: Settings, live_broker: None) -> Iterator[Connection]:
    """A connection to the broker."""
    url = settings.broker_url.get_secret_value()
    with Connection(url, transport_options=transport_options(settings.broker_prefix)) as connection:
        yield connection


class Exploit:
    """What a pickle can do to whoever loads it: here, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def forged(marker: Path) -> list[dict[str, Any]]:
    """Return what `Producer.publish` takes for messages that no part of this service has sent."""
    headers = {"lang": "py", "task": DELIVER, "id": str(uuid4()), "retries": 0}
    wrong: list[Any] = [
        [],
        [1],
        ["default"],
        ["default", ["no id"], SENT_AT],
        ["default", [1, None, {}], SENT_AT],
        ["default", None, SENT_AT],
        ["default", [str(uuid4())], "yesterday"],
        ["default", [], "2026-01-01T00:00:00"],
        ["default", [], "9999-12-31T23:59:59-14:00"],
        ["default", [], None],
        ["default", [], SENT_AT, "more"],
    ]
    json_body = {"content_type": "application/json", "content_encoding": "utf-8"}
    pickled = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    return [
        *({"body": json.dumps([args, {}, {}]), "headers": headers, **json_body} for args in wrong),
        {"body": json.dumps([["default", [], SENT_AT], {}, {}]), "headers": {**headers, "task": "nobody"}, **json_body},
        {"body": "{", "headers": headers, **json_body},
        {"body": "", "headers": {}, **json_body},
        {"body": pickle.dumps([[Exploit(marker)], {}, {}]), "headers": headers, **pickled},
        {"body": pickle.dumps(Exploit(marker)), "headers": {}, **pickled},
    ]


async def test_messages_of_others_neither_stop_a_worker_nor_run_their_code(
    broker: Connection,
    settings: Settings,
    tmp_path: Path,
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
) -> None:
    marker = tmp_path / "exploited"
    queue = declared_queue(settings.broker_prefix, "default")
    producer = Producer(broker)
    for message in forged(marker):
        producer.publish(exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], **message)
    worker = start_worker()
    accepted = await live_submitter.submit(NewTask.of(add, [1, 2]))
    assert (await wait_for_task(accepted.id)).result == 3

    async def is_empty() -> bool:
        return await live_submitter.queue.depth("default") == 0

    await until(is_empty)
    assert worker.process.poll() is None
    assert not marker.exists()
    assert "recovery failed" not in worker.log


async def test_a_message_is_json_that_holds_one_id(
    broker: Connection, settings: Settings, live_submitter: Submitter
) -> None:
    group = [NewTask.of(add, [12345]) for _ in range(3)]
    accepted = await live_submitter.submit_many(group)
    queue = declared_queue(settings.broker_prefix, "default").bind(broker.channel())
    bodies = []
    while (message := queue.get(no_ack=True)) is not None:
        assert message.content_type == "application/json"
        bodies.append(json.loads(message.body or ""))
    assert [body[0] for body in bodies] == [
        ["default", [str(task.id)], task.created_at.isoformat()] for task in accepted
    ]
    assert "12345" not in json.dumps(bodies)


async def test_a_thread_that_goes_on_after_its_timeout_is_killed_with_its_process(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask
) -> None:
    worker = start_worker()
    [stuck] = await submit_all(live_submitter, sleep_in_thread, [600.0])
    record = await wait_for_task(stuck, "failed")
    assert record.error == {"type": "timeout", "message": "The task ran longer than 0.5 s."}
    await asyncio.to_thread(worker.wait_for, "a thread goes on after its task: this process ends")
    assert record.worker is not None
    await until(lambda: not is_alive(int(str(record.worker).rpartition(":")[2])))
    [after] = await submit_all(live_submitter, add, [[1]])
    assert (await wait_for_task(after)).result == 1


async def test_the_time_limit_kills_a_process_whose_loop_is_blocked_and_the_record_says_so(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TIME_LIMIT", "2")
    start_worker()
    [blocking] = await submit_all(live_submitter, sleep_on_loop, [600.0])
    record = await wait_for_task(blocking, "failed")
    assert record.error == {"type": "timeout", "message": "The task held up its worker and was stopped after 2 s."}
    assert (record.attempt, record.crashes) == (1, 0)
    await until(lambda: not is_alive(int(str(record.worker).rpartition(":")[2])))


async def test_one_process_of_a_worker_recovers_and_when_it_is_killed_another(start_worker: StartWorker) -> None:
    worker = start_worker()
    await until(lambda: len(those_who(worker, RECOVERS)) == 1)
    [recovering] = those_who(worker, RECOVERS)
    os.kill(int(recovering.rpartition(":")[2]), signal.SIGKILL)
    await until(lambda: len(those_who(worker, RECOVERS)) == 2)


async def test_a_task_does_not_wait_for_the_lease_of_a_killed_process(
    live_submitter: Submitter,
    start_worker: StartWorker,
    wait_for_task: WaitForTask,
    settings: Settings,
    database: Database,
    tmp_path: Path,
) -> None:
    start_worker(settings.model_copy(update={"task_lease_seconds": 1.5 * PATIENCE_SECONDS}))
    [task_id] = await submit_all(live_submitter, wait_for_file, [str(tmp_path / "gate")])
    running = await wait_for_task(task_id, "running")
    os.kill(int(str(running.worker).rpartition(":")[2]), signal.SIGKILL)

    async def is_reclaimed() -> bool:
        return (await read(database, task_id)).crashes == 1

    await until(is_reclaimed)
    (tmp_path / "gate").touch()
    assert (await wait_for_task(task_id)).worker != running.worker


async def test_a_worker_that_is_made_smaller_still_recovers(start_worker: StartWorker, settings: Settings) -> None:
    worker = start_worker()
    await asyncio.to_thread(worker.wait_for, LISTENS)
    await until(lambda: len(those_who(worker, "worker started")) == settings.worker_concurrency)
    await ask_workers(settings, "control", "pool_shrink", str(settings.worker_concurrency - 1))
    await until(lambda: len(those_who(worker, "worker stopped")) == settings.worker_concurrency - 1)
    await until(lambda: those_who(worker, RECOVERS)[-1] not in those_who(worker, "worker stopped"))


async def test_a_worker_that_is_stopped_by_celerys_control_hands_its_tasks_back(
    live_submitter: Submitter, start_worker: StartWorker, wait_for_task: WaitForTask, settings: Settings, tmp_path: Path
) -> None:
    worker = start_worker()
    await asyncio.to_thread(worker.wait_for, LISTENS)
    [task_id] = await submit_all(live_submitter, wait_for_file, [str(tmp_path / "gate")])
    await wait_for_task(task_id, "running")
    await ask_workers(settings, "control", "shutdown")
    assert (await wait_for_task(task_id, "pending")).attempt == 0
    assert await asyncio.to_thread(worker.process.wait, PATIENCE_SECONDS) == 0


async def test_celery_tasks_of_ones_own_run_too(settings: Settings, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    create_celery(settings).send_task("touch", args=[str(tmp_path / "touched")])
    await until((tmp_path / "touched").exists)


async def test_with_threads_many_tasks_that_wait_do_so_at_the_same_time(
    live_submitter: Submitter, start_worker: StartWorker, settings: Settings, database: Database, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    wide = settings.model_copy(update={"worker_concurrency": 100})
    worker = start_worker(wide, "--pool", "threads")
    await submit_all(live_submitter, wait_for_file, [str(gate)] * 100)

    async def have(status: str) -> bool:
        return {record.status for record in await read_all(database)} == {status}

    await until(lambda: have("running"))
    gate.touch()
    await until(lambda: have("completed"))
    assert await asyncio.to_thread(worker.stop) == 0
    assert "worker stopped" in worker.log


async def test_celery_can_be_asked_whether_a_worker_lives(settings: Settings, start_worker: StartWorker) -> None:
    async def is_alive() -> bool:
        return await ask_workers(settings, "inspect", "ping") == 0

    assert not await is_alive()
    start_worker()
    await until(is_alive)


def test_nothing_of_the_service_is_celerys_default(settings: Settings) -> None:
    conf = create_celery(settings).conf
    assert conf.accept_content == ["json"]
    assert conf.result_backend is None
    assert [queue.name for queue in conf.task_queues] == [f"{settings.broker_prefix}.default"]
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)


def those_who(worker: WorkerProcess, event: str) -> list[str]:
    """Return the processes of a worker that have logged an event, in that order."""
    return [line["worker"] for line in worker.events if line["event"] == event]


async def ask_workers(settings: Settings, *question: str) -> int:
    """Ask all workers something by Celery's command line. Returns its exit code: 0 if they answer within a second."""
    command = [sys.executable, "-m", "celery", "-A", "tests.support.worker", *question]
    asked = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await asked.wait()


def is_alive(process: int) -> bool:
    """Tell whether a process is there; one that has ended and is not waited for is not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
