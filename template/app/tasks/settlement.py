"""Writing down how a run ended, exactly once, whatever the database does meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.database import Connection, Database, is_unavailable
from app.tasks import store
from app.tasks.batch import Batch
from app.tasks.context import EffectSession
from app.tasks.new_task import NewTask
from app.tasks.store import Pair
from app.tasks.submit import Submitter
from app.telemetry import get_logger

logger = get_logger(__name__)

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 1.0

Statement = Callable[[Connection], Awaitable[bool]]


@dataclass(frozen=True)
class Completed:
    """The task returned; `effects` is its open transaction and `children` what it submits."""

    result: Any
    effects: EffectSession | None = None
    children: list[NewTask] = field(default_factory=list)


@dataclass(frozen=True)
class Retried:
    """The attempt failed and another follows after `delay` seconds."""

    error: Mapping[str, str]
    delay: float


@dataclass(frozen=True)
class Failed:
    """The task failed for good; `children` is what follows that."""

    error: Mapping[str, str]
    children: list[NewTask] = field(default_factory=list)


@dataclass(frozen=True)
class Cancelled:
    """The task was asked to stop, and did."""


@dataclass(frozen=True)
class Released:
    """The worker stops: the task is handed back, its attempt not counted."""


Outcome = Completed | Retried | Failed | Cancelled | Released


class Settler:
    """Settles the runs of one worker process."""

    def __init__(self, database: Database, submitter: Submitter) -> None:
        self._database = database
        self._submitter = submitter
        self._completions = Batch(self._complete_together)

    async def settle(self, pair: Pair, outcome: Outcome) -> bool:
        """Write the outcome down. Returns whether it counted: False if another worker has taken over.

        While the database is away it tries again, also when the lease has run out meanwhile: the fence tells.
        """
        match outcome:
            case Completed(effects=None, children=[]):
                return await self._complete(pair, outcome.result)
            case Completed():
                return await self._settle_with_effects(pair, outcome)
            case Retried():
                return await self._repeat(lambda c: store.settle_retry(c, pair, outcome.error, outcome.delay), pair)
            case Failed():
                return await self._fail(pair, outcome)
            case Cancelled():
                return await self._repeat(lambda c: store.settle_cancelled(c, pair), pair)
            case Released():
                return await self._release(pair)

    async def _complete(self, pair: Pair, result: Any) -> bool:
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return await self._completions.do((pair, result))
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _complete_together(self, group: Sequence[tuple[Pair, Any]]) -> list[bool]:
        if len(group) == 1:
            return [await self._complete_alone(*group[0])]
        async with self._database.begin() as connection:
            completed = await store.settle_all_completed(connection, group)
        return [pair in completed for pair, _ in group]

    async def _complete_alone(self, pair: Pair, result: Any) -> bool:
        async with self._database.begin_one() as connection:
            if await store.settle_completed(connection, pair, result):
                return True
        async with self._database.read() as session:  # the answer to a try before this may have been lost
            return await was_completed(session, pair)

    async def _settle_with_effects(self, pair: Pair, outcome: Completed) -> bool:
        """Commit the task's writes and its completion as one; if that fails, neither has happened or both have."""
        effects = outcome.effects or EffectSession(self._database.engine)
        try:
            for child in outcome.children:
                await self._submitter.submit_with(child, effects)
            if not await store.settle_completed(effects, pair, outcome.result):
                return False
            await effects.commit_with_settlement()
        except Exception as error:
            if not is_unavailable(error):
                raise
            logger.warning("database lost while a task was completed", error=type(error).__name__)
        else:
            return True
        finally:
            await effects.close()
        # The commit may have succeeded or not. Settling again without the writes would complete a task that has had
        # no effect, so hand it back: that finds nothing if it is completed.
        await self._release(pair)
        return await self._was_completed(pair)

    async def _fail(self, pair: Pair, outcome: Failed) -> bool:
        async def fail(connection: Connection) -> bool:
            if not await store.settle_failed(connection, pair, outcome.error):
                return False
            for child in outcome.children:
                await self._submitter.add(connection, child)
            return True

        failed = await self._repeat(fail, pair)
        if failed and outcome.children:
            await self._submitter.resend([child.id for child in outcome.children])
        return failed

    async def _release(self, pair: Pair) -> bool:
        released = await self._repeat(lambda c: store.release(c, pair), pair)
        if released:
            await self._submitter.resend([pair[0]])
        return released

    async def _was_completed(self, pair: Pair) -> bool:
        return await self._repeat(lambda c: was_completed(c, pair), pair)

    async def _repeat(self, statement: Statement, pair: Pair) -> bool:
        """Run a fenced statement until the database answers. A repetition that changes nothing may mean it had."""
        wait = FIRST_WAIT_SECONDS
        repeated = False
        while True:
            try:
                async with self._database.begin() as connection:
                    if await statement(connection):
                        return True
                    record = await store.read(connection, pair[0]) if repeated else None
                    return record is not None and record.fence == pair[1] and record.status != "running"
            except Exception as error:
                if not is_unavailable(error):
                    raise
            repeated = True
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)


async def was_completed(connection: Connection, pair: Pair) -> bool:
    """Tell whether a claim has ended in a completed task."""
    record = await store.read(connection, pair[0])
    return record is not None and record.status == "completed" and record.fence == pair[1]
