"""ARQ: messages come in the order of their sending, by the database's clock, and a full worker leaves them in it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from arq.connections import ArqRedis

from app.database import Database
from app.queues import arq as engine
from app.queues.arq import ArqQueue, Listener, connect, dumps, loads, queue_name
from app.queues.base import Message
from app.settings import Settings
from app.tasks import Submitter, TaskRecord
from app.tasks.executor import ROOM_WAIT_SECONDS
from tests.support.processes import WorkerProcess
from tests.support.records import read, submit_all
from tests.support.sample_tasks import add, wait_for_file
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("live_broker")


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[ArqRedis]:
    """A client of the broker."""
    client = connect(settings.broker_url.get_secret_value(), retries=1)
    yield client
    await client.aclose()


@pytest.fixture
async def arq(settings: Settings, patient: None) -> AsyncIterator[ArqQueue]:
    """The queue as the API sends to it."""
    queue = ArqQueue(settings)
    yield queue
    await queue.close()


class CountingListener(Listener):
    """A listener that counts how often it has looked at its queue."""

    looks = 0

    async def heart_beat(self) -> None:
        """What ARQ does at the end of each look."""
        await super().heart_beat()
        self.looks += 1


class Host:
    """A worker with so much room; it notes what is handed over to it."""

    def __init__(self, settings: Settings, room: int) -> None:
        self.room = room
        self.delivered: list[Message] = []
        self.listener = CountingListener(
            "default",
            self.deliver,
            lambda: self.room > self.listener.coming,
            queue_name=queue_name(settings.broker_prefix, "default"),
            redis_pool=connect(settings.broker_url.get_secret_value(), retries=1),
            handle_signals=False,
            job_serializer=dumps,
            job_deserializer=loads,
            max_jobs=50,
            keep_result=0,
            poll_delay=0.02,
        )

    async def deliver(self, message: Message) -> None:
        """Take room, as a claim does."""
        self.room -= 1
        self.delivered.append(message)


@pytest.fixture
async def host(settings: Settings) -> AsyncIterator[Host]:
    """A worker that listens, with room for three."""
    host = Host(settings, room=3)
    listening = asyncio.create_task(host.listener.async_run())
    yield host
    host.listener.allow_pick_jobs = False
    looks = host.listener.looks
    # Not in the middle of a call to the broker, which the client would leave half done.
    await until(lambda: host.listener.looks > looks + 1 and not host.listener.tasks)
    listening.cancel()
    await asyncio.wait([listening])
    await host.listener.pool.aclose(close_connection_pool=True)


async def send(arq: ArqQueue, count: int) -> list[Message]:
    """Send so many messages, each a second after the one before it."""
    first = datetime.now(UTC) - timedelta(seconds=count)
    messages = [Message("default", (uuid4(),), first + timedelta(seconds=number)) for number in range(count)]
    for message in messages:
        await arq.send([message])
    return messages


async def test_a_listener_takes_as_many_messages_as_there_is_room_for_and_leaves_the_others(
    arq: ArqQueue, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROOM_CHECK_SECONDS", 0)  # it looks in every turn of the loop
    messages = await send(arq, 9)

    async def has_left(count: int) -> bool:
        return await arq.depth("default") == count

    await until(lambda: has_left(6))
    assert set(host.delivered) == set(messages[:3])
    host.room = 2
    await until(lambda: has_left(4))
    assert set(host.delivered) == set(messages[:5])
    host.room = 50
    await until(lambda: has_left(0))
    assert len(host.delivered) == 9


async def test_a_listener_that_is_told_to_stop_takes_nothing_more_although_there_is_room(
    arq: ArqQueue, host: Host
) -> None:
    host.listener.allow_pick_jobs = False
    await send(arq, 1)
    [job_id] = await host.listener.pool.zrange(host.listener.queue_name, 0, -1)
    await host.listener.start_jobs([job_id])
    assert host.listener.tasks == {}


async def test_a_full_worker_sends_nothing_back_and_runs_the_rest_in_order(
    settings: Settings,
    database: Database,
    live_submitter: Submitter,
    start_worker: Callable[..., WorkerProcess],
    wait_for_task: Callable[..., Awaitable[TaskRecord]],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    start_worker(settings.model_copy(update={"worker_concurrency": 1}))
    [blocking] = await submit_all(live_submitter, wait_for_file, [str(gate)])
    await wait_for_task(blocking, "running")
    waiting = await submit_all(live_submitter, add, [[number] for number in range(5)])
    await asyncio.sleep(3 * ROOM_WAIT_SECONDS)  # a message that was taken would be back in the queue by now
    gate.touch()
    for task_id in waiting:
        await wait_for_task(task_id)
    records = [await read(database, task_id) for task_id in waiting]
    assert [record.sent_at for record in records] == [record.created_at for record in records]
    started = [record.started_at for record in records if record.started_at is not None]
    assert started == sorted(started)


async def test_a_sender_whose_clock_is_ahead_is_heard_at_once(
    arq: ArqQueue, redis: ArqRedis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_at = datetime.now(UTC)
    ahead = time.time_ns() + 30_000_000_000
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: ahead)
        await arq.send([Message("default", (uuid4(),), sent_at)])
    name = queue_name(settings.broker_prefix, "default")
    assert len(await redis.zrangebyscore(name, "-inf", time.time_ns() // 1_000_000)) == 1


async def test_messages_are_delivered_in_the_order_of_their_sending_by_the_databases_clock(
    arq: ArqQueue, host: Host
) -> None:
    host.room = 0
    times = [datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (30, -30, 0)]
    first, second, third = (Message("default", (uuid4(),), sent_at) for sent_at in times)
    await arq.send([first, second, third])
    for message in second, third, first:
        host.room = 1
        await until(lambda: host.room == 0)
        assert host.delivered.pop() == message
