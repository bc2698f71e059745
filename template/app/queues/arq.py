"""ARQ as the transport: messages are ARQ jobs, and an ARQ worker delivers them.

ARQ acknowledges a message as soon as its tasks are claimed: from then on their records keep them, so ARQ's own
retries, timeouts and results play no part.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, cast
from uuid import UUID, uuid4

from arq.connections import ArqRedis, RedisSettings
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.typing import WorkerCoroutine
from arq.worker import Function, func
from arq.worker import Worker as ArqWorker
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as BrokerConnectionError
from redis.exceptions import TimeoutError as BrokerTimeoutError

from app.queues.base import NOT_OURS, Deliver, Message
from app.settings import Settings

SEND_TIMEOUT_SECONDS = 0.25
MESSAGE_TTL_MS = int(timedelta(days=30).total_seconds() * 1000)
CLOCK_TOLERANCE_MS = 3_600_000
FUNCTION = "deliver"
QUIET_LOGGERS = ("arq",)
"""They say at INFO, for each message, what the service says itself for each task."""
ROOM_SECONDS = 0.5
ROOM_CHECK_SECONDS = 0.005
"""How long a listener waits for room before it looks at its queue again, and how often it checks meanwhile."""
YEAR_9999 = 253_370_764_800_000
"""In ARQ's milliseconds."""
KEEPALIVE = {
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)  # some systems lack some of them
    }
}
UNAVAILABLE = (BrokerConnectionError, BrokerTimeoutError, OSError)


def dumps(job: dict[str, Any]) -> bytes:
    """Serialize a job as JSON; ARQ's default would be pickle, which lets the broker run code here."""
    return json.dumps(job, default=str).encode()


def loads(data: bytes) -> dict[str, Any]:
    """Read a job back. Raises ValueError if it is none, and ARQ then drops it: a wrong one would end the worker."""
    job = json.loads(data)
    match job:
        case {"f": str(), "a": list(), "k": dict(), "t": int() | None, "et": int(at)} if 0 <= at < YEAR_9999:
            return cast(dict[str, Any], job)
    raise ValueError("not a job of ARQ")


class ArqQueue:
    """Sends messages to the ARQ workers of this service; BROKER_PREFIX keeps services apart that share a broker."""

    via: ClassVar[str] = "arq+redis"
    ids_per_message: ClassVar[int] = 10

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings.broker_url.get_secret_value(), retries=1)
        self._prefix = settings.broker_prefix

    async def open(self) -> None:
        """Do nothing: connections are made when they are needed."""

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()

    async def send(self, messages: Sequence[Message]) -> None:
        """Send the messages in one round trip, as ARQ's enqueue_job would one by one.

        Their order is that of their times of sending, by the database's clock. ARQ takes that for the time from which
        on a message may be delivered, by the clock of the worker's host; so it lies well before.
        """
        now = time.time_ns() // 1_000_000
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS), self._redis.pipeline(transaction=True) as pipe:
            for message in messages:
                job_id = uuid4().hex  # a new one for every sending: ARQ refuses an id that it still remembers
                args = ([str(task_id) for task_id in message.ids], message.sent_at.isoformat())
                job = serialize_job(FUNCTION, args, {}, None, now, serializer=dumps)
                pipe.psetex(job_key_prefix + job_id, MESSAGE_TTL_MS, job)
                score = int(message.sent_at.timestamp() * 1000) - CLOCK_TOLERANCE_MS
                pipe.zadd(queue_name(self._prefix, message.queue), {job_id: score})
            await pipe.execute()

    async def depth(self, queue: str) -> int:
        """Return how many messages wait in the queue, those being delivered included."""
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            return int(await self._redis.zcard(queue_name(self._prefix, queue)))


class Client(ArqRedis):
    """ARQ's client, which neither ends a worker nor keeps it from ending."""

    async def zrangebyscore(self, name: Any, *args: Any, **options: Any) -> Any:
        """Return what waits in a queue. A member that is not text, which ARQ would end by, is dropped."""
        members = await super().zrangebyscore(name, *args, **options)
        strange = [member for member in members if not _is_text(member)]
        if strange:
            await self.zrem(name, *strange)
        return [member for member in members if member not in strange]

    async def delete(self, *names: Any) -> Any:
        """Delete keys; give up soon, for ARQ does this before its shutdown, and the broker may be down."""
        try:
            async with asyncio.timeout(1):
                return await super().delete(*names)
        except UNAVAILABLE:
            return 0


class Listener(ArqWorker):
    """Listens to one queue, and takes a message only while `has_room` says so: all others stay where they are.

    Taken without room, each would go back to the end of the queue, and the first ones would soon be the last.
    """

    def __init__(self, queue: str, deliver: Deliver, has_room: Callable[[], bool], **settings: Any) -> None:
        super().__init__(functions=[deliver_function(queue, self._hand_over)], **settings)
        self._deliver = deliver
        self._has_room = has_room
        self._handing_over = 0

    @property
    def coming(self) -> int:
        """How many messages it has taken that are not handed over yet, or are just being acknowledged."""
        return self.job_counter - self._handing_over

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Begin to deliver messages, one by one, each as soon as there is room."""
        for job_id in job_ids:
            if not await self._wait_for_room():
                return
            await super().start_jobs([job_id])

    async def _hand_over(self, message: Message) -> None:
        self._handing_over += 1  # in the same turn of the loop in which the worker begins to count it
        try:
            await self._deliver(message)
        finally:
            self._handing_over -= 1

    async def _wait_for_room(self) -> bool:
        give_up = time.monotonic() + ROOM_SECONDS
        while self.allow_pick_jobs and time.monotonic() < give_up:
            if self._has_room():
                return True
            await asyncio.sleep(ROOM_CHECK_SECONDS)
        return False


def queue_name(prefix: str, queue: str) -> str:
    """Return the key of a queue on the broker."""
    return f"{prefix}:{queue}"


def connect(url: str, *, retries: int) -> ArqRedis:
    """Return a client that connects when it is used, and tries again so many times (-1: until it succeeds).

    It has no `socket_timeout`: with one, before Python 3.12, a cancellation can get lost in a call, and then a worker
    goes on that was told to stop. The system notices within half a minute that the broker's host is gone.
    """
    tcp: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True, **KEEPALIVE}
    client: ArqRedis = Client.from_url(
        url,
        socket_connect_timeout=2,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries),
        retry_on_error=list(UNAVAILABLE),
        **tcp,
    )
    client.job_serializer = dumps
    client.job_deserializer = loads
    client.expires_extra_ms = MESSAGE_TTL_MS
    return client


def redis_settings(url: str) -> RedisSettings:
    """Return the URL as ARQ's own settings, which `arq --check` needs."""
    parts = parse_url(url)
    return RedisSettings(
        host=parts.get("host", "localhost"),
        port=parts.get("port", 6379),
        unix_socket_path=parts.get("path"),
        database=parts.get("db", 0),
        username=parts.get("username"),
        password=parts.get("password"),
        ssl=url.startswith("rediss:"),
    )


def _is_text(member: bytes) -> bool:
    try:
        member.decode()
    except UnicodeDecodeError:
        return False
    return True


def deliver_function(queue: str, deliver: Deliver) -> Function:
    """Return the one ARQ function of a worker: it hands a message over and comes back when its tasks are claimed."""

    async def run(_context: dict[Any, Any], ids: list[str], sent_at: str) -> None:
        try:
            message = Message(queue, tuple(UUID(item) for item in ids), datetime.fromisoformat(sent_at))
        except NOT_OURS:
            return  # the records know what is owed
        await deliver(message)

    return func(cast(WorkerCoroutine, run), name=FUNCTION, timeout=None, max_tries=1000)
