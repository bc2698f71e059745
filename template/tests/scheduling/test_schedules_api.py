"""/schedules: what fires when, what came of it, and running it by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import SecretStr

from app.database import Database
from app.settings import Settings
from app.tasks import Schedule
from app.tasks.scheduling import Scheduler, read_last
from tests.scheduling.rows import HOUR, every_hour, last_of, set_last
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import read, read_all
from tests.support.sample_tasks import add, break_down
from tests.support.serving import serving

Declare = Callable[..., Schedule[Any]]

KEY = {"Authorization": f"Bearer {'k' * 32}"}


@pytest.fixture
def hourly(declare: Declare) -> Schedule[Any]:
    """A schedule that fires every hour."""
    return declare("hourly", every_hour("Asia/Kathmandu"), add, [1, 2], time_zone="Asia/Kathmandu")


async def test_the_list_tells_what_fires_when_and_what_came_of_it(
    hourly: Schedule[Any],
    declare: Declare,
    client: AsyncClient,
    database: Database,
    scheduler: Scheduler,
    run_tasks: TaskRunner,
) -> None:
    declare("broken", timedelta(hours=1), break_down)
    declare("off", timedelta(minutes=1), break_down, enabled=False)
    await set_last(database, "hourly", 2 * HOUR)
    await set_last(database, "broken", 2 * HOUR)
    firings = {firing.schedule.name: firing for firing in await scheduler.fire_due()}
    await run_tasks()
    response = await client.get("/schedules")
    assert response.headers["Cache-Control"] == "private, no-cache"
    broken, shown, off = response.json()["items"]
    assert {name: shown[name] for name in ("name", "task", "when", "time_zone", "enabled")} == {
        "name": "hourly",
        "task": "sample.add",
        "when": hourly.when,
        "time_zone": "Asia/Kathmandu",
        "enabled": True,
    }
    assert datetime.fromisoformat(shown["last_fire_at"]) == firings["hourly"].fire_at
    assert datetime.fromisoformat(shown["next_fire_at"]) == firings["hourly"].fire_at + timedelta(hours=1)
    assert shown["last_task"] == {"id": str(firings["hourly"].task_id), "status": "completed"}
    assert (broken["when"], broken["last_task"]["status"]) == ("every 3600 s", "failed")
    assert (off["enabled"], off["next_fire_at"], off["last_fire_at"]) == (False, None, None)


async def test_what_has_not_fired_has_no_last_firing(
    hourly: Schedule[Any], client: AsyncClient, database: Database, scheduler: Scheduler
) -> None:
    for _ in range(2):
        [shown] = (await client.get("/schedules")).json()["items"]
        assert (shown["last_fire_at"], shown["last_task"]) == (None, None)
        async with database.read() as session:
            moment, _last = await read_last(session)
        until = datetime.fromisoformat(shown["next_fire_at"]) - moment
        assert timedelta() <= until <= timedelta(hours=1)
        await scheduler.fire_due()  # it starts


async def test_a_run_by_hand_belongs_to_its_caller_and_is_no_firing(
    hourly: Schedule[Any], settings: Settings, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    await set_last(database, "hourly", 0.5 * HOUR)
    before = await last_of(database, "hourly")
    keys = SecretStr(f"ada:{'k' * 32}")
    async with serving(settings.model_copy(update={"api_keys": keys}), queue) as client:
        response = await client.post("/schedules/hourly/run", headers=KEY)
        assert response.status_code == 202
        assert response.headers["Retry-After"] == "1"
        assert (await client.get(response.headers["Location"], headers=KEY)).json()["id"] == response.json()["id"]
    record = await read(database, response.json()["id"])
    assert (record.owner, record.scope, record.payload) == ("ada", "", [1, 2])
    assert await last_of(database, "hourly") == before
    [record] = await run_tasks()
    assert record.result == 3


async def test_a_run_by_hand_may_be_sent_twice_with_a_key(
    hourly: Schedule[Any], client: AsyncClient, database: Database
) -> None:
    headers = {"Idempotency-Key": "tonight"}
    first, again = [await client.post("/schedules/hourly/run", headers=headers) for _ in range(2)]
    assert first.json()["id"] == again.json()["id"]
    assert len(await read_all(database)) == 1


async def test_one_that_is_not_enabled_can_be_run_by_hand(
    declare: Declare, client: AsyncClient, database: Database
) -> None:
    declare("off", timedelta(hours=1), add, [1], enabled=False)
    assert (await client.post("/schedules/off/run")).status_code == 202
    assert len(await read_all(database)) == 1


async def test_the_metrics_tell_what_is_overdue(
    hourly: Schedule[Any], declare: Declare, client: AsyncClient, database: Database
) -> None:
    declare("often", timedelta(seconds=10), add, [1])
    declare("off", timedelta(seconds=10), add, [1], enabled=False)
    await set_last(database, "often", 2.5 * HOUR)  # it was due up to 10 s later
    lines = (await client.get("/metrics")).text.splitlines()
    overdue = dict(line.rsplit(" ", 1) for line in lines if line.startswith("schedules_overdue_seconds{"))
    assert {name: float(seconds) // HOUR for name, seconds in overdue.items()} == {
        'schedules_overdue_seconds{schedule="hourly"}': 0,
        'schedules_overdue_seconds{schedule="often"}': 2,
    }


async def test_an_unknown_one_is_not_found(hourly: Schedule[Any], client: AsyncClient, database: Database) -> None:
    response = await client.post("/schedules/weekly/run")
    assert response.status_code == 404
    assert response.json()["detail"] == "There is no schedule with this name."
    assert await read_all(database) == []


async def test_a_key_is_needed_and_a_firing_is_nobodys(
    hourly: Schedule[Any], settings: Settings, queue: InlineQueue, database: Database, scheduler: Scheduler
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    [firing] = await scheduler.fire_due()
    keys = SecretStr(f"ada:{'k' * 32}")
    async with serving(settings.model_copy(update={"api_keys": keys}), queue) as client:
        assert (await client.get("/schedules")).status_code == 401
        assert (await client.post("/schedules/hourly/run")).status_code == 401
        assert (await client.get("/schedules", headers=KEY)).json()["items"][0]["last_task"] is not None
        for call in (
            client.get(f"/tasks/{firing.task_id}", headers=KEY),
            client.post(f"/tasks/{firing.task_id}/cancel", headers=KEY),
        ):
            assert (await call).status_code == 404
