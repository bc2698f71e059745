"""Celery as the transport: a message is a task of Celery's that carries ids, published from a thread of its own.

Celery acknowledges a message when its task has ended. That plays no part in what is guaranteed: from the claim on, the
record keeps the task, and a message that comes twice finds nothing to claim.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, ParamSpec, TypeVar

from celery import Celery
from kombu import Connection, Exchange, Queue

from app.queues.base import Message
from app.queues.celery_broker import HEARTBEAT_SECONDS, QUEUE_ARGUMENTS, VIA, Publisher, drop, transport_options
from app.settings import Settings

T = TypeVar("T")
Args = ParamSpec("Args")

DELIVER = "deliver"
SEND_TIMEOUT_SECONDS = 0.25
BROKER_TIMEOUT_SECONDS = 1.0
"""How long the publishing thread waits for a broker that does not answer; nobody waits for the thread so long."""


class CeleryQueue:
    """Sends messages to the Celery workers of this service.

    Publishing blocks, so it happens in one thread, which holds one connection. What a caller has given up before the
    thread has begun it is not sent, so that nothing piles up behind a broker that stands still.
    """

    via: ClassVar[str] = VIA
    ids_per_message: ClassVar[int] = 1
    """A process of a worker runs one task at a time: a second id would wait for the first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._celery = create_celery(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None

    async def open(self) -> None:
        """Begin to connect, so that the first message need not wait for it."""
        self._thread.submit(self._guarded, self._connect_to_publish)

    async def close(self) -> None:
        """Close the connection, once what is being sent has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.release()

    async def send(self, messages: Sequence[Message]) -> None:
        """Publish the messages as one group. Raises TimeoutError after a quarter of a second."""
        await self._call(self._publish, messages)

    async def depth(self, queue: str) -> int:
        """Return how many messages wait in the queue; those that a worker holds are not among them."""
        return await self._call(self._count, queue)

    async def _call(self, function: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
        """Call a function in the thread, and wait for it for a moment only."""
        call = partial(self._guarded, function, *args, **kwargs)
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _guarded(self, function: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception:
            self._collect()  # what the connection still holds is not known
            raise

    def _publish(self, messages: Sequence[Message]) -> None:
        with self._connect_to_publish().group(len(messages)) as producer:
            for message in messages:
                queue: Any = declared_queue(self._settings.broker_prefix, message.queue)
                ids = [str(task_id) for task_id in message.ids]
                args = (message.queue, ids, message.sent_at.isoformat())
                self._celery.send_task(DELIVER, args=args, queue=queue, producer=producer)

    def _count(self, queue: str) -> int:
        channel: Any = self._connect().default_channel
        name = declared_queue(self._settings.broker_prefix, queue).name
        declared = channel.queue_declare(name, durable=True, auto_delete=False, arguments=QUEUE_ARGUMENTS)
        return int(declared.message_count)

    def _connect_to_publish(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(self._connect())
        return self._publisher

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(
                self._settings.broker_url.get_secret_value(),
                connect_timeout=BROKER_TIMEOUT_SECONDS,
                transport_options=transport_options(self._settings.broker_prefix, BROKER_TIMEOUT_SECONDS),
            )
            self._connection.connect()
        return self._connection

    def _collect(self) -> None:
        """Close the connection, without a word to a broker that may not listen."""
        connection, self._connection, self._publisher = self._connection, None, None
        if connection is not None:
            drop(connection)


def declared_queue(prefix: str, queue: str) -> Queue:
    """Return a queue as it is declared on the broker; `prefix` keeps services apart that share one."""
    name = f"{prefix}.{queue}"
    return Queue(name, Exchange(prefix, type="direct"), routing_key=name, queue_arguments=QUEUE_ARGUMENTS)


def create_celery(settings: Settings) -> Celery:
    """Return Celery's application, set so that its workers lose nothing and wait for a broker that is away."""
    prefix = settings.broker_prefix
    queues = [declared_queue(prefix, queue) for queue in settings.worker_queues.split(",")]
    celery = Celery(prefix, broker=settings.broker_url.get_secret_value(), set_as_current=False)
    celery.conf.update(
        # Messages carry ids, as JSON; results are in the records.
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        # The broker: no limit to trying again, in a worker; none of it in the API, which leaves that to recovery.
        broker_heartbeat=HEARTBEAT_SECONDS,
        broker_transport_options=transport_options(prefix),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        task_publish_retry=False,
        # Services that share a broker share nothing on it.
        task_queues=queues,
        task_default_queue=queues[0].name,  # for Celery tasks of your own
        task_create_missing_queues=False,
        control_exchange=f"{prefix}.control",
        control_queue_durable=True,
        control_queue_exclusive=False,  # or a second worker on a host would not start
        event_exchange=f"{prefix}.events",
        event_queue_prefix=f"{prefix}.events",
        # The worker: a message is its own until its task has ended, and it takes none in advance.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_concurrency=settings.worker_concurrency,
        worker_lost_wait=1.0,
        worker_prefetch_multiplier=1,
        # Logs are the service's own.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return celery
