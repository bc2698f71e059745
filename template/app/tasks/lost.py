"""A process that died with tasks: whoever saw it die tells their records, which need not wait for the lease."""

from app.database import Database, is_unavailable
from app.queues.base import TaskQueue
from app.settings import Settings
from app.tasks.definition import registry
from app.tasks.run import TaskTimedOut, after_failure
from app.tasks.settlement import Settler
from app.tasks.store.losing import end_leases, find_held
from app.tasks.submit import Submitter
from app.telemetry import get_logger

logger = get_logger(__name__)


async def give_up(settings: Settings, queue: TaskQueue, worker: str, timeout: float | None) -> None:
    """Settle what a process held that was killed for running longer than `timeout`; without one, end its leases.

    `worker` is the name under which it claimed. If the database is away, the leases run out by themselves.
    """
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    submitter = Submitter(database, queue)
    try:
        if timeout is None:
            async with database.begin_one() as connection:
                await end_leases(connection, worker)
            return
        async with database.read() as session:
            claims = await find_held(session, worker)
        for claim in claims:
            error = TaskTimedOut(f"The task held up its worker and was stopped after {timeout:g} s.")
            outcome = after_failure(registry[claim.name], claim, error)
            await Settler(database, submitter).settle((claim.id, claim.fence), outcome)
    except Exception as error:
        if not is_unavailable(error):
            raise
        logger.warning("database unavailable, the lease of a lost task runs on", error=type(error).__name__)
    finally:
        await submitter.close()
        await queue.close()
        await database.close()
