"""/metrics: each figure moves as it should, and Prometheus can read them."""

from collections.abc import Callable
from typing import Any

import pytest
from httpx import AsyncClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from app import metrics
from app.database import Database, now, plus
from app.settings import Settings
from app.tasks import Submitter, TaskRecord, registry
from tests.support.inline import InlineQueue, TaskRunner, trust_database
from tests.support.records import LATER, LONG_AGO, change, submit_all
from tests.support.sample_tasks import add, refuse, wait
from tests.support.serving import serving

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Figures:
    """Return every sample by its name and labels. Raises ValueError for what Prometheus could not read."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples), "a sample is there twice"
    return found


@pytest.fixture
def figure(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Reads a figure as it is now: `await figure("tasks", status="pending")`; None if it is not there."""
    monkeypatch.setattr(metrics, "CACHE_SECONDS", -1)

    async def read(metric: str, /, **labels: str) -> float | None:
        response = await client.get("/metrics")
        assert response.status_code == 200
        return parse(response.text).get((metric, tuple(sorted(labels.items()))))

    return read


async def test_the_format_is_prometheus_own(client: AsyncClient, submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submit_all(submitter, add, [[1]])
    await run_tasks()
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {"tasks", "tasks_due", "tasks_oldest_due_seconds", "tasks_unroutable", "tasks_ended_recently"} <= set(
        families
    )
    assert all(family.documentation for family in families.values())


async def test_an_idle_service_shows_zeros_and_not_nothing(figure: Callable[..., Any]) -> None:
    for status in "pending", "running", "failed", "cancelled":
        assert await figure("tasks", status=status) == 0
    for queue in {task.queue for task in registry}:
        assert await figure("tasks_due", queue=queue) == 0
        assert await figure("tasks_oldest_due_seconds", queue=queue) == 0
    assert await figure("tasks_unroutable") == 0
    assert await figure("tasks_recovered_recently") == 0


async def test_tasks_are_counted_by_status(
    figure: Callable[..., Any], submitter: Submitter, database: Database
) -> None:
    ids = await submit_all(submitter, add, ([number] for number in range(7)))
    assert await figure("tasks", status="pending") == 7
    for task_id in ids[:3]:
        await change(database, task_id, status="running", lease_expires_at=LATER)
    await change(database, ids[3], status="failed", finished_at=now())
    await change(database, ids[4], status="cancelled", finished_at=now())
    await change(database, ids[5], status="completed", finished_at=now())
    shown = [await figure("tasks", status=status) for status in ("pending", "running", "failed", "cancelled")]
    assert shown == [1, 3, 1, 1]


async def test_what_waits_for_a_worker_is_counted_with_its_age_for_each_queue(
    figure: Callable[..., Any], submitter: Submitter, database: Database
) -> None:
    ids = await submit_all(submitter, add, ([number] for number in range(4)))
    await change(database, ids[0], run_at=plus(now(), -100))
    await change(database, ids[1], queue="slow", run_at=plus(now(), -500))
    await change(database, ids[2], run_at=LATER)
    assert await figure("tasks_due", queue="default") == 2
    assert await figure("tasks_due", queue="slow") == 1
    assert 100 <= await figure("tasks_oldest_due_seconds", queue="default") < 160
    assert 500 <= await figure("tasks_oldest_due_seconds", queue="slow") < 560


async def test_tasks_that_no_worker_knows_are_counted(
    figure: Callable[..., Any], submitter: Submitter, database: Database
) -> None:
    for task_id in await submit_all(submitter, add, [[1], [2]]):
        await change(database, task_id, name="nobody.knows")
    assert await figure("tasks_unroutable") == 2
    assert await figure("tasks_due", queue="default") == 2


async def test_what_has_ended_is_counted_by_name_and_status_for_a_while(
    figure: Callable[..., Any], submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    [first, *_] = await submit_all(submitter, add, [[1], [2]])
    await submit_all(submitter, refuse, ["no"])
    await run_tasks()
    assert await figure("tasks_ended_recently", name="sample.add", status="completed") == 2
    assert await figure("tasks_ended_recently", name="sample.refuse", status="failed") == 1
    await change(database, first, finished_at=LONG_AGO)
    assert await figure("tasks_ended_recently", name="sample.add", status="completed") == 1


async def test_tasks_that_lost_a_worker_are_counted_as_recovered(
    figure: Callable[..., Any], submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    lost, _ = await submit_all(submitter, add, [[1], [2]])
    await change(database, lost, status="running", lease_expires_at=LONG_AGO, attempt=1, fence=1)
    trust_database(run_tasks.worker.recovery)
    await run_tasks()
    assert await figure("tasks_recovered_recently") == 1


async def test_durations_are_a_histogram_of_what_has_completed(
    figure: Callable[..., Any], submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    await submit_all(submitter, wait, [0.0] * 4)
    await run_tasks()
    records = update(TaskRecord).values(started_at=plus(TaskRecord.finished_at, -2))  # type: ignore[arg-type]
    async with database.begin() as connection:
        await connection.execute(records)
    bucket = "tasks_duration_recently_seconds_bucket"
    assert await figure(bucket, name="sample.wait", le="1") == 0
    assert await figure(bucket, name="sample.wait", le="5") == 4
    assert await figure(bucket, name="sample.wait", le="+Inf") == 4
    assert await figure("tasks_duration_recently_seconds_gsum", name="sample.wait") == pytest.approx(8, abs=0.1)
    assert await figure("tasks_duration_recently_seconds_gcount", name="sample.wait") == 4


async def test_names_that_look_like_the_format_do_no_harm(
    figure: Callable[..., Any], submitter: Submitter, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    await change(database, task_id, name='a"b\\c\n} 1', status="failed", finished_at=now())
    assert await figure("tasks_ended_recently", name='a"b\\c\n} 1', status="failed") == 1


async def test_the_figures_are_read_now_and_then(
    client: AsyncClient, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CACHE_SECONDS", 3600)
    before = (await client.get("/metrics")).text
    await submit_all(submitter, add, [[1]])
    assert (await client.get("/metrics")).text == before


async def test_without_the_database_there_are_no_figures_and_a_clear_answer(
    without_database: Settings, queue: InlineQueue
) -> None:
    async with serving(without_database, queue) as client:
        assert (await client.get("/metrics")).status_code == 503
