"""Submitting the tasks of schedules that are due. Whatever calls this, and however often, a firing happens once.

A firing moves the schedule's row in `task_schedules` forward, by an UPDATE that only one can win, in the transaction
that records the task. So the processes that call this need no leader and no lock.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, select, update

from app.database import Connection, Database, insert, is_unavailable, now
from app.tasks.models import TaskScheduleRecord
from app.tasks.new_task import IdempotencyKey
from app.tasks.schedule import Schedule, Schedules, schedules
from app.tasks.submit import KeyReused, Replay, Submitter
from app.tasks.timetable import find_due
from app.telemetry import get_logger

logger = get_logger(__name__)

TICK_SECONDS = 1.0
OWNER = ""
"""Scheduled tasks belong to nobody who calls: no API key has an empty name, so none can cancel or run them again."""
SCOPE = "schedule"
"""Where their keys count. Those of clients count per route or per task, so that none can be taken for a firing."""
FAR_AHEAD = timedelta(minutes=10)

rows = cast(Table, TaskScheduleRecord.__table__)


@dataclass(frozen=True)
class Firing:
    """What a schedule has submitted, and for which moment."""

    schedule: Schedule[Any]
    fire_at: datetime
    task_id: UUID


class Scheduler:
    """Submits what is due; one for each process that ticks. While `paused`, nothing is due."""

    def __init__(
        self, database: Database, submitter: Submitter, known: Schedules = schedules, *, paused: bool = False
    ) -> None:
        self.fired = 0
        """How many firings this process has submitted."""
        self.refused = 0
        """How many it found due, and another process was quicker."""
        self._database = database
        self._submitter = submitter
        self._known = known
        self._paused = paused
        self._ahead: set[str] = set()
        if paused:
            logger.info("schedules are paused", setting="SCHEDULES_PAUSED")

    async def tick(self) -> None:
        """Submit what is due, and log what goes wrong: the next tick tries again. Call it about every second."""
        try:
            await self.fire_due()
        except Exception as error:
            if is_unavailable(error):
                logger.warning("database unavailable, schedules wait", error=type(error).__name__)
            else:
                logger.exception("schedules could not be looked at")

    async def fire_due(self, names: Collection[str] | None = None, *, early: timedelta = timedelta()) -> list[Firing]:
        """Submit what is due, of these schedules or of all; see `find_due` for `early`.

        A schedule that is seen for the first time starts now. Raises what the database raises.
        """
        wanted = [s for s in self._known if s.enabled and not self._paused and (names is None or s.name in names)]
        if not wanted:
            return []
        async with self._database.read() as session:
            moment, last = await read_last(session)
        if new := [schedule.name for schedule in wanted if schedule.name not in last]:
            async with self._database.begin_one() as connection:
                await start(connection, new, moment)
        firings = []
        for schedule in wanted:
            try:
                if schedule.name in last and (firing := await self._fire(schedule, last[schedule.name], moment, early)):
                    firings.append(firing)
            except Exception as error:
                if is_unavailable(error):
                    raise
                logger.exception("schedule could not be fired", schedule=schedule.name)
        return firings

    def close(self) -> None:
        """Tell what this process has done."""
        logger.info("schedules stopped", fired=self.fired, refused=self.refused)

    async def _fire(self, schedule: Schedule[Any], last: datetime, moment: datetime, early: timedelta) -> Firing | None:
        self._note_clock(schedule.name, last, moment)
        fire_at = find_due(schedule.timetable, last=last, now=moment, grace=schedule.grace, early=early)
        if fire_at is None:
            return None
        new = schedule.new_task(owner=OWNER, key=IdempotencyKey(SCOPE, firing_key(schedule.name, fire_at), ""))
        created_at = None
        async with self._database.begin() as connection:
            if await advance(connection, schedule.name, fire_at):
                # A record of this firing that is there already means that the row was set back, by hand or by a backup.
                with suppress(Replay, KeyReused):
                    created_at = await self._submitter.add(connection, new)
        if created_at is None:
            self.refused += 1
            logger.debug("schedule has been fired elsewhere", schedule=schedule.name, fire_at=fire_at.isoformat())
            return None
        self.fired += 1
        logger.info("schedule fired", schedule=schedule.name, fire_at=fire_at.isoformat(), task_id=str(new.id))
        await self._submitter.send_soon(new.messages(created_at))
        return Firing(schedule, fire_at, new.id)

    def _note_clock(self, name: str, last: datetime, moment: datetime) -> None:
        """Say it once if the database's clock was set back: the schedule waits until that time comes again."""
        if last <= moment + FAR_AHEAD:
            self._ahead.discard(name)
        elif name not in self._ahead:
            self._ahead.add(name)
            logger.warning("schedule waits: its last firing lies ahead", schedule=name, last_fire_at=last.isoformat())


def firing_key(name: str, fire_at: datetime) -> str:
    """Return the idempotency key of a firing's task."""
    return f"{name} {fire_at.isoformat()}"


async def read_last(connection: Connection) -> tuple[datetime, dict[str, datetime]]:
    """Return the database's time and each schedule's last firing; for one that has not fired yet, its start."""
    moment = (await connection.execute(select(now()))).scalar_one()
    return moment, {row.name: row.last_fire_at for row in await connection.execute(select(rows))}


async def start(connection: Connection, names: Collection[str], moment: datetime) -> None:
    """Let new schedules start now. A start has a fraction of a second and a firing has none: that tells them apart."""
    at = moment.replace(microsecond=moment.microsecond or 1)
    values = [{"name": name, "last_fire_at": at} for name in sorted(names)]
    await connection.execute(insert(rows).values(values).on_conflict_do_nothing())


async def advance(connection: Connection, name: str, fire_at: datetime) -> bool:
    """Move a schedule's last firing forward. Returns False if somebody has moved it that far already."""
    earlier = (rows.c.name == name) & (rows.c.last_fire_at < fire_at)
    moved = update(rows).where(earlier).values(last_fire_at=fire_at).returning(rows.c.name)
    return (await connection.execute(moved)).first() is not None


def is_firing(last: datetime) -> bool:
    """Tell whether a schedule's row holds a firing, and not its start."""
    return last.microsecond == 0
