"""ARQ: what somebody else puts into the queue does no harm, and `arq --check` tells whether a worker lives."""

import asyncio
import json
import pickle
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from pydantic import SecretStr
from redis.exceptions import ConnectionError as BrokerConnectionError

from app.database import Database
from app.queues import create_queue
from app.queues.arq import FUNCTION, connect, dumps, queue_name
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskRecord
from tests.support.outage import hold_still
from tests.support.own_servers import own_server
from tests.support.processes import ROOT, WorkerProcess, environment
from tests.support.sample_tasks import add, wait_for_file
from tests.support.waiting import PATIENCE_SECONDS, until

SENT_AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    """A client of the broker."""
    client = connect(settings.broker_url.get_secret_value(), retries=1)
    yield client
    await client.aclose()


class Exploit:
    """What a pickle can do to whoever loads it: here, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def forged(marker: Path) -> list[bytes]:
    """Return jobs that no part of this service has sent."""
    job: dict[str, Any] = {"t": None, "f": FUNCTION, "a": [[str(uuid4())], SENT_AT], "k": {}, "et": 1}
    wrong: list[dict[str, Any]] = [
        {"f": "no_such_function"},
        {"f": None},
        {"f": [1]},
        {"a": []},
        {"a": None},
        {"a": [["no id"], SENT_AT]},
        {"a": [[1, None, {}], SENT_AT]},
        {"a": [None, SENT_AT]},
        {"a": [[str(uuid4())], "yesterday"]},
        {"a": [[], "2026-01-01T00:00:00"]},  # without a time zone
        {"a": [[], "9999-12-31T23:59:59-14:00"]},  # after the end of time
        {"a": [[], None]},
        {"a": [[], SENT_AT, "more"]},
        {"k": {"more": 1}},
        {"k": None},
        {"t": "often"},
        {"et": "early"},
        {"et": None},
        {"et": 10**30},
    ]
    return [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        pickle.dumps(Exploit(marker)),
        pickle.dumps({**job, "a": Exploit(marker)}),
        *(dumps({**job, **change}) for change in wrong),
    ]


async def test_messages_of_others_neither_stop_a_worker_nor_run_their_code(
    redis: ArqRedis,
    settings: Settings,
    tmp_path: Path,
    live_submitter: Submitter,
    start_worker: Callable[..., WorkerProcess],
    wait_for_task: Callable[..., Awaitable[TaskRecord]],
) -> None:
    marker = tmp_path / "exploited"
    queue = queue_name(settings.broker_prefix, settings.worker_queues)
    for job in forged(marker):
        job_id = uuid4().hex
        await redis.set(job_key_prefix + job_id, job)
        await redis.zadd(queue, {job_id: 1})
    await redis.zadd(queue, {"a job without content": 1})
    await redis.zadd(queue, {b"\xff is not text": 1})
    worker = start_worker()
    accepted = await live_submitter.submit(NewTask.of(add, [1, 2]))
    assert (await wait_for_task(accepted.id)).result == 3
    await until(lambda: _is_empty(redis, queue))
    accepted = await live_submitter.submit(NewTask.of(add, [3, 4]))
    assert (await wait_for_task(accepted.id)).result == 7
    assert worker.process.poll() is None
    assert not marker.exists()
    assert "recovery failed" not in worker.log


async def _is_empty(redis: ArqRedis, queue: str) -> bool:
    return int(await redis.zcard(queue)) == 0


async def test_a_message_is_json_that_holds_ids_only(
    redis: ArqRedis, settings: Settings, live_submitter: Submitter
) -> None:
    accepted = await live_submitter.submit(NewTask.of(add, [12345]))
    queue = queue_name(settings.broker_prefix, "default")
    [job_id] = await redis.zrange(queue, 0, -1)
    job = json.loads(await redis.get(job_key_prefix + job_id.decode()))
    assert job["a"] == [[str(accepted.id)], accepted.created_at.isoformat()]
    assert "12345" not in json.dumps(job)
    assert await live_submitter.queue.depth("default") == 1


async def test_a_message_sent_again_is_another_one(live_submitter: Submitter) -> None:
    """ARQ refuses a job whose id it still remembers."""
    new = NewTask.of(add, [1])
    created_at = (await live_submitter.submit(new)).created_at
    await live_submitter.send(new.messages(created_at))
    assert await live_submitter.queue.depth("default") == 2


async def test_health_is_what_arq_says_of_a_worker(
    settings: Settings, start_worker: Callable[..., WorkerProcess]
) -> None:
    def check() -> int:
        command = [sys.executable, "-m", "arq", "--check", "tests.support.worker.WorkerSettings"]
        return subprocess.run(command, cwd=ROOT, env=environment(settings), capture_output=True, timeout=60).returncode

    assert await asyncio.to_thread(check) == 1
    start_worker()
    await until(lambda: asyncio.to_thread(lambda: check() == 0))


async def test_sending_to_a_broker_that_is_down_fails(without_broker: Settings) -> None:
    client = connect(without_broker.broker_url.get_secret_value(), retries=1)
    with pytest.raises(BrokerConnectionError):
        await client.ping()
    await client.aclose()


async def test_a_cancellation_is_not_lost_in_a_call_to_the_broker(settings: Settings) -> None:
    """A worker that polls must end when it is told to."""
    client = connect(settings.broker_url.get_secret_value(), retries=-1)

    async def poll() -> None:
        while True:
            await client.zcard("queue")

    for _ in range(200):
        polling = asyncio.create_task(poll())
        for _ in range(random.randrange(1, 40)):
            await asyncio.sleep(0)
        polling.cancel()
        await asyncio.wait([polling], timeout=PATIENCE_SECONDS / 10)
        assert polling.done()
    await client.aclose()


async def test_a_broker_that_goes_away_before_it_hears_of_a_delivery_keeps_no_task_from_being_handed_back(
    settings: Settings,
    database: Database,
    tmp_path: Path,
    start_worker: Callable[..., WorkerProcess],
    wait_for_task: Callable[..., Awaitable[TaskRecord]],
    patient: None,
) -> None:
    with own_server("BROKER_URL", tmp_path / "broker") as broker:
        own = settings.model_copy(update={"broker_url": SecretStr(broker.url), "task_lease_seconds": 600.0})
        worker = start_worker(own)
        client = connect(broker.url, retries=1)
        queue = create_queue(own)
        submitter = Submitter(database, queue)
        async with database.begin() as connection:
            accepted = NewTask.of(wait_for_file, str(tmp_path / "never"))
            created_at = await submitter.add(connection, accepted)
        async with database.begin() as connection:  # the delivery has to wait for this
            await hold_still(connection)
            await submitter.send(accepted.messages(created_at))
            await until(lambda: _is_delivered(client))
            await asyncio.to_thread(broker.stop)
        await wait_for_task(accepted.id, "running")
        await asyncio.to_thread(worker.stop)
        record = await wait_for_task(accepted.id, "pending")
        assert (record.attempt, record.crashes, record.sent_at) == (0, 0, None)
        await submitter.close()
        await queue.close()
        await client.aclose()


async def _is_delivered(client: ArqRedis) -> bool:
    return bool(await client.keys(f"{in_progress_key_prefix}*"))
