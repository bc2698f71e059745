"""Celery's worker: in each of its processes an event loop, in a thread, runs the tasks that Celery delivers.

With the prefork pool that is a loop for each child, made after the fork, and one task at a time; with threads it is one
loop for all of them.
"""

import asyncio
import fcntl
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import billiard
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.concurrency import prefork
from celery.exceptions import Reject
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection

from app.queues.base import NOT_OURS, Message
from app.queues.celery import DELIVER, CeleryQueue
from app.settings import Settings, process_name
from app.tasks import registry
from app.tasks.lost import give_up
from app.tasks.worker import Worker
from app.telemetry import get_logger

logger = get_logger(__name__)

T = TypeVar("T")

QUIET_LOGGERS = ("celery.app.trace", "celery.worker.strategy")
"""They say at INFO, for each message, what the service says itself for each task."""
STUCK_SECONDS = 30.0
"""How long after the longest timeout of all tasks Celery kills a process: its event loop must be blocked."""
RECONNECTION_SECONDS = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
LOST = (WorkerLostError, SystemExit, KeyboardInterrupt)
"""What Celery's main process is told of a child that has died."""
ConsumerBlueprint: Any = Consumer.Blueprint
STOP_SIGNAL = signal.SIGUSR2
"""What a main process sends to its children when it is told to stop."""


class Turn:
    """Held by one child of a worker at a time, which recovers for all. The system frees it when that child ends.

    A lock of fcntl belongs to a process, though all of them inherit the file (https://man7.org/linux/man-pages/man2/F_SETLK.2const.html).
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker)
        self._is_mine = False

    def take(self) -> bool:
        """Take it if nobody has it. Returns whether this process has it."""
        if not self._is_mine:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._is_mine = True
                logger.info("this process recovers for its worker", worker=process_name())
        return self._is_mine


class TaskLoop:
    """The event loop of one process, in a thread of its own, and the worker on it."""

    def __init__(self, settings: Settings, *, concurrency: int, recovers: Callable[[], bool], is_child: bool) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="tasks", daemon=True).start()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = threading.Event()
        self._worker = self._wait_for(self._start(settings, concurrency, recovers, is_child))

    def deliver(self, message: Message) -> bool:
        """Run the tasks of a message to their end. Returns False if this process takes nothing any more."""
        return self._wait_for(self._worker.run(message))

    def stop(self) -> None:
        """Let what runs end within the grace, and hand the rest back; returns at once. For signal handlers too."""
        self._loop.call_soon_threadsafe(self._stop_once)

    def wait_until_stopped(self) -> None:
        """Stop, and return when that is done."""
        self.stop()
        self._stopped.wait()

    async def _start(
        self, settings: Settings, concurrency: int, recovers: Callable[[], bool], is_child: bool
    ) -> Worker:
        worker = Worker(
            settings,
            CeleryQueue(settings),
            concurrency=concurrency,
            recovers=recovers,
            ends_when_stuck=is_child,
        )
        await worker.start()
        return worker

    def _stop_once(self) -> None:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop())

    async def _stop(self) -> None:
        if not await self._worker.stop():
            os._exit(1)  # a thread is stuck in a task, and would keep the process for ever
        self._stopped.set()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class TaskProcess:
    """This process as one of a worker's: Celery's signals begin and end it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: TaskLoop | None = None
        self._controller: Any = None  # Celery's WorkController, in a main process
        self._turn = Turn()
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Listen to Celery's signals."""
        signals.worker_init.connect(self._note_controller, weak=False)
        signals.worker_process_init.connect(self._start_child, weak=False)
        signals.worker_ready.connect(self._start_threads, weak=False)
        signals.worker_shutting_down.connect(self.stop, weak=False)
        signals.worker_process_shutdown.connect(self._wait_until_stopped, weak=False)
        signals.worker_shutdown.connect(self._wait_until_stopped, weak=False)

    def deliver(self, queue: str, ids: list[str], sent_at: str) -> None:
        """Run the tasks of a message to their end."""
        try:
            message = Message(queue, tuple(UUID(task_id) for task_id in ids), datetime.fromisoformat(sent_at))
        except NOT_OURS:
            return  # not sent by this service: the records know what is owed
        if not self._loop().deliver(message):
            raise Reject("the worker stops", requeue=True)

    def stop(self, **_: Any) -> None:
        """Let what runs in this process and its children end within the grace; returns at once."""
        if self._tasks is not None:
            self._tasks.stop()
        elif self._is_prefork:
            for child in self._controller.pool.info.get("processes", ()):
                with suppress(ProcessLookupError):
                    os.kill(child, STOP_SIGNAL)

    def _note_controller(self, sender: Any, **_: Any) -> None:
        if any(pool in str(sender.pool_cls) for pool in ("gevent", "eventlet")):
            sys.exit("This worker runs tasks on an event loop of its own: use --pool prefork, threads or solo.")
        billiard.set_start_method("fork", force=True)  # or on macOS the children would know nothing of this process
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # a child that still starts would die of it
        self._controller = sender

    def _start_child(self, **_: Any) -> None:
        self._tasks = TaskLoop(self._settings, concurrency=1, recovers=self._turn.take, is_child=True)
        signal.signal(STOP_SIGNAL, lambda *_: self.stop())

    def _start_threads(self, **_: Any) -> None:
        if not self._is_prefork:
            self._loop()

    def _loop(self) -> TaskLoop:
        with self._lock:  # the first messages of a pool of threads come at the same time
            if self._tasks is None:
                concurrency = self._controller.concurrency if self._controller is not None else 1
                self._tasks = TaskLoop(
                    self._settings, concurrency=int(concurrency), recovers=lambda: True, is_child=False
                )
            return self._tasks

    @property
    def _is_prefork(self) -> bool:
        pool: Any = getattr(self._controller, "pool", None)
        return isinstance(pool, prefork.TaskPool) and getattr(pool, "_pool", None) is not None

    def _wait_until_stopped(self, **_: Any) -> None:
        if self._tasks is not None:
            self._tasks.wait_until_stopped()


def create_consumer_class(process: TaskProcess) -> type[Consumer]:
    """Return Celery's consumer as a worker of this service has it.

    It is back a moment after a broker that was away; Celery's own may take half a minute. It leaves out what serves
    features of Celery that this service has in its records: delayed delivery, which would declare dozens of queues,
    and workers' talk among themselves.
    """

    class TaskConsumer(Consumer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            options = {**kwargs.get("worker_options", {}), "without_gossip": True, "without_mingle": True}
            super().__init__(*args, **{**kwargs, "worker_options": options})

        class Blueprint(ConsumerBlueprint):  # type: ignore[misc]
            default_steps: ClassVar = [s for s in ConsumerBlueprint.default_steps if not s.endswith(":DelayedDelivery")]

        def ensure_connected(self, conn: Connection) -> Connection:
            patient: Any = conn
            patient.ensure_connection = partial(patient.ensure_connection, **RECONNECTION_SECONDS)
            return super().ensure_connected(conn)

        def close(self) -> None:
            """Celery calls it before the worker stops, whatever makes it stop."""
            process.stop()

    return TaskConsumer


def create_request_class(settings: Settings) -> type[Request]:
    """Return what Celery's main process does about messages whose process was lost or killed.

    The records learn it at once, and need not wait for the end of the lease.
    """

    class DeliveryRequest(Request):
        def on_timeout(self, soft: bool, timeout: float) -> None:
            super().on_timeout(soft, timeout)
            if not soft:
                self._give_up(timeout)

        def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
            super().on_failure(exc_info, send_failed_event, return_ok)
            error = exc_info.exception
            if isinstance(getattr(error, "exc", error), LOST):  # billiard wraps what comes with a traceback
                self._give_up(None)

        def _give_up(self, timeout: float | None) -> None:
            work = give_up(settings, CeleryQueue(settings), process_name(int(self.worker_pid or 0)), timeout)
            # Beside Celery's own loop, which must not wait for the database.
            threading.Thread(target=asyncio.run, args=(work,), name="give up").start()

    return DeliveryRequest


def install(celery: Celery, settings: Settings) -> None:
    """Make Celery's workers run the tasks of this service."""
    process = TaskProcess(settings)
    process.connect()
    longest = max((task.timeout for task in registry), default=0.0)
    celery.conf.task_time_limit = longest + STUCK_SECONDS
    celery.conf.worker_consumer = create_consumer_class(process)
    celery.task(name=DELIVER, Request=create_request_class(settings))(process.deliver)
