"""One worker process: executor, heartbeat and recovery, started and stopped together, whichever engine runs it."""

from collections.abc import Callable

from app.database import Database
from app.queues.base import Message, TaskQueue
from app.settings import Settings, process_name
from app.tasks.definition import Registry, registry
from app.tasks.executor import Executor
from app.tasks.heartbeat import Heartbeat
from app.tasks.recovery import Recovery
from app.tasks.submit import Submitter
from app.telemetry import get_logger

logger = get_logger(__name__)


class Worker:
    """Runs the tasks that the engine delivers. Make it on the loop that it will run on.

    `concurrency` is how many tasks it runs at the same time, by default as the settings say. `recovers` tells, each
    time it is asked, whether this process recovers for its worker, or another does. With `ends_when_stuck` it ends its
    process if a thread goes on after its task: whoever started the process starts another.
    """

    def __init__(
        self,
        settings: Settings,
        queue: TaskQueue,
        tasks: Registry = registry,
        *,
        concurrency: int | None = None,
        recovers: Callable[[], bool] = lambda: True,
        ends_when_stuck: bool = False,
    ) -> None:
        url = settings.database_url.get_secret_value()
        # Tasks take a connection at their end; a few more serve recovery.
        self.database = Database(url, pool_size=settings.database_pool_size)
        self.submitter = Submitter(self.database, queue)
        self._grace = settings.shutdown_grace_seconds
        self._name = process_name()
        lease = settings.task_lease_seconds
        self.executor = Executor(
            self.database,
            self.submitter,
            tasks,
            worker=self._name,
            lease=lease,
            concurrency=concurrency or settings.worker_concurrency,
            ends_when_stuck=ends_when_stuck,
        )
        self.recovery = Recovery(
            self.database,
            self.submitter,
            self.executor,
            lease=lease,
            retention_days=settings.task_retention_days,
            is_active=recovers,
        )
        self._heartbeat = Heartbeat(url, lease, self.executor.list_runs)

    async def start(self) -> None:
        """Begin to keep leases and to recover what is owed."""
        await self.submitter.queue.open()
        self._heartbeat.start()
        self.recovery.start()
        logger.info("worker started", worker=self._name, tasks=[task.name for task in self.executor.registry])

    async def deliver(self, message: Message) -> None:
        """Take a message from the engine; see Executor.deliver."""
        await self.executor.deliver(message)

    async def run(self, message: Message) -> bool:
        """Take a message and run its tasks to their end; see Executor.run."""
        return await self.executor.run(message)

    async def stop(self) -> bool:
        """Let tasks end within the grace, hand the rest back and close everything.

        Returns False if a thread that cannot be stopped still runs: only the end of the process stops it.
        """
        await self.recovery.stop()
        ended = await self.executor.drain(self._grace)
        self._heartbeat.stop()
        await self.submitter.close()
        await self.submitter.queue.close()
        await self.database.close()
        logger.info("worker stopped", worker=self._name)
        return ended
