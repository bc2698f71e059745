"""The rows of schedules, written and read by the tests without the code under test."""

from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import select

from app.database import Database, insert, now, plus
from app.tasks.models import TaskScheduleRecord

HOUR = 3600.0


def every_hour(time_zone: str = "UTC") -> str:
    """Return cron text for once an hour, half an hour from now, so that no test meets a firing by chance."""
    return f"{(datetime.now(ZoneInfo(time_zone)).minute + 30) % 60} * * * *"


async def set_last(database: Database, name: str, seconds_ago: float) -> None:
    """Let a schedule have fired last so many seconds ago, whatever it has done."""
    last = {"last_fire_at": plus(now(), -seconds_ago)}
    row = insert(TaskScheduleRecord).values(name=name, **last)
    async with database.begin() as connection:
        await connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=last))


async def last_of(database: Database, name: str) -> datetime | None:
    """Return what is recorded as a schedule's last firing."""
    async with database.read() as session:
        return await session.scalar(select(TaskScheduleRecord.last_fire_at).where(TaskScheduleRecord.name == name))
