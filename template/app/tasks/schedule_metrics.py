"""The schedules' part of /metrics: whether they fire, or whatever should drive them has stopped."""

from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.ext.asyncio import AsyncSession

from app.tasks.schedule import schedules
from app.tasks.scheduling import read_last


async def read_metrics(session: AsyncSession) -> Sequence[Metric]:
    """Return for how long each schedule's next firing has been due; 0 if it lies ahead."""
    moment, last = await read_last(session)
    overdue = GaugeMetricFamily(
        "schedules_overdue_seconds", "How long a firing that has not happened has been due.", labels=["schedule"]
    )
    for schedule in schedules:
        if schedule.enabled:
            due = schedule.timetable.next(last.get(schedule.name, moment))
            overdue.add_metric([schedule.name], max(0.0, (moment - due).total_seconds()))
    return [overdue]
