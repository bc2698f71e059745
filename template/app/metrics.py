"""/metrics for Prometheus: how the tasks are, as their records tell it, so that every API process says the same.

What has ended is counted over the last five minutes; the records are the memory, no process has any of its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import RowMapping, Table, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database, now, plus, seconds_between
from app.tasks import TaskRecord, TaskStatus, registry

router = APIRouter(tags=["metrics"])

RECENTLY_SECONDS = 300.0
CACHE_SECONDS = 5.0
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)

r = cast(Table, TaskRecord.__table__).c
Rows = Sequence[RowMapping]
Source = Callable[[AsyncSession], Awaitable[Sequence[Metric]]]
"""Reads further figures, in the session it is given."""


class TaskMetrics(Collector):
    """The figures of one moment."""

    def __init__(self, current: Rows, pending: Rows, finished: Rows, more: Sequence[Metric] = ()) -> None:
        self._current = current
        self._pending = pending
        self._finished = finished
        self._more = more

    def collect(self) -> Iterable[Metric]:
        """Yield every metric."""
        tasks = GaugeMetricFamily("tasks", "Tasks that are not completed, by status.", labels=["status"])
        counts = dict.fromkeys((s.value for s in TaskStatus if s is not TaskStatus.COMPLETED), 0)
        for row in self._current:
            counts[row["status"]] = row["tasks"]
        for status, count in counts.items():
            tasks.add_metric([status], count)
        yield tasks

        waiting = GaugeMetricFamily("tasks_due", "Tasks that wait for a worker.", labels=["queue"])
        oldest = GaugeMetricFamily("tasks_oldest_due_seconds", "How long the oldest has waited.", labels=["queue"])
        unroutable = GaugeMetricFamily("tasks_unroutable", "Tasks that wait and that no worker of this version knows.")
        queues = {task.queue: (0, 0.0) for task in registry}
        known = {task.name for task in registry}
        for row in self._pending:
            count, age = queues.get(row["queue"], (0, 0.0))
            queues[row["queue"]] = (count + row["tasks"], max(age, float(row["age"])))
        for queue, (count, age) in queues.items():
            waiting.add_metric([queue], count)
            oldest.add_metric([queue], age)
        unroutable.add_metric([], sum(row["tasks"] for row in self._pending if row["name"] not in known))
        yield from (waiting, oldest, unroutable)

        ended = GaugeMetricFamily("tasks_ended_recently", "Tasks that ended in 5 minutes.", labels=["name", "status"])
        recovered = GaugeMetricFamily("tasks_recovered_recently", "Of these, those a worker was lost with.")
        durations = GaugeHistogramMetricFamily(
            "tasks_duration_recently_seconds", "How long these took from their first start.", labels=["name"]
        )
        for row in self._finished:
            ended.add_metric([row["name"], row["status"]], row["tasks"])
            if row["status"] == TaskStatus.COMPLETED:
                buckets = [(f"{bound:g}", float(row[f"under_{n}"])) for n, bound in enumerate(BUCKETS)]
                durations.add_metric(
                    [row["name"]], [*buckets, ("+Inf", float(row["tasks"]))], float(row["seconds"] or 0)
                )
        recovered.add_metric([], sum(row["recovered"] for row in self._finished))
        yield from (ended, recovered, durations)
        yield from self._more


class MetricsReader:
    """Reads the figures, those of further sources too, at most every five seconds however often it is asked."""

    def __init__(self, database: Database, *sources: Source) -> None:
        self._database = database
        self._sources = sources
        self._lock = asyncio.Lock()
        self._text = b""
        self._read_at = float("-inf")

    async def read(self) -> bytes:
        """Return the figures in Prometheus' text format."""
        async with self._lock:
            if time.monotonic() - self._read_at > CACHE_SECONDS:
                async with self._database.read() as session:
                    metrics = TaskMetrics(
                        (await session.execute(current_query())).mappings().all(),
                        (await session.execute(pending_query())).mappings().all(),
                        (await session.execute(finished_query())).mappings().all(),
                        [metric for source in self._sources for metric in await source(session)],
                    )
                self._text = generate_latest(metrics)
                self._read_at = time.monotonic()
            return self._text


def current_query() -> Any:
    """Count what is not completed: an index holds just that."""
    return select(r.status, func.count().label("tasks")).where(r.status != "completed").group_by(r.status)


def pending_query() -> Any:
    """Count what is due, and how long it has been."""
    age = func.max(seconds_between(r.run_at, now())).label("age")
    due = select(r.queue, r.name, func.count().label("tasks"), age).where(r.status == "pending", r.run_at <= now())
    return due.group_by(r.queue, r.name)


def finished_query() -> Any:
    """Count what has ended, by name and status, with its durations in buckets."""
    seconds = seconds_between(func.coalesce(r.started_at, r.finished_at), r.finished_at)
    under = [func.sum(case((seconds <= bound, 1), else_=0)).label(f"under_{n}") for n, bound in enumerate(BUCKETS)]
    recovered = func.sum(case((r.crashes > 0, 1), else_=0)).label("recovered")
    columns = (r.name, r.status, func.count().label("tasks"), func.sum(seconds).label("seconds"), recovered, *under)
    recent = r.finished_at.is_not(None) & (r.finished_at > plus(now(), -RECENTLY_SECONDS))
    return select(*columns).where(recent).group_by(r.name, r.status)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Tell the figures to Prometheus. No key is needed: keep this path inside your network."""
    reader: MetricsReader = request.app.state.metrics
    return Response(await reader.read(), media_type=CONTENT_TYPE_LATEST)
