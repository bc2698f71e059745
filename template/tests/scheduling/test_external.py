"""Schedules driven from outside: the token is needed, and of any number of calls one gets each firing."""

import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import SecretStr, ValidationError

from app.database import Database
from app.settings import Settings
from app.tasks import Schedule
from tests.scheduling.api_process import ApiProcess
from tests.scheduling.counting import assert_each_happened_once, report, wait_for_firings, wait_for_the_end
from tests.scheduling.every_second import NAME
from tests.scheduling.rows import HOUR, every_hour, last_of, set_last
from tests.support.inline import InlineQueue
from tests.support.processes import ServiceProcess, WorkerProcess
from tests.support.records import read_all
from tests.support.sample_tasks import add
from tests.support.serving import serving

Declare = Callable[..., Schedule[Any]]

TOKEN = "the-internal-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
RUN_DUE = "/internal/schedules/run-due"


@pytest.fixture
def guarded(awake: Settings) -> Settings:
    """Settings with an internal token, and with an API key that is none."""
    keys = SecretStr(f"ada:{'k' * 32}")
    return awake.model_copy(update={"internal_token": SecretStr(TOKEN), "api_keys": keys})


@pytest.fixture
async def internal(guarded: Settings, queue: InlineQueue, declare: Declare) -> AsyncIterator[AsyncClient]:
    """A client of an API that has an internal token and an hourly schedule."""
    declare("hourly", every_hour(), add, [1, 2])
    async with serving(guarded, queue) as client:
        yield client


@pytest.mark.parametrize("path", [RUN_DUE, "/internal/schedules/hourly/run", "/internal/schedules/weekly/run"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {'k' * 32}"},
    ],
)
async def test_without_the_token_nothing_fires(
    path: str, headers: dict[str, str], internal: AsyncClient, database: Database
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    response = await internal.post(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in response.text
    assert await read_all(database) == []


async def test_without_a_token_set_nobody_may_call(awake: Settings, queue: InlineQueue) -> None:
    async with serving(awake, queue) as client:
        for headers in {}, {"Authorization": "Bearer "}, BEARER:
            assert (await client.post(RUN_DUE, headers=headers)).status_code == 401


@pytest.mark.parametrize("path", [RUN_DUE, "/internal/schedules/hourly/run"])
async def test_a_call_submits_what_is_due_and_the_next_one_nothing(
    path: str, internal: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    await set_last(database, "hourly", 2 * HOUR)
    response = await internal.post(path, headers=BEARER)
    assert response.status_code == 200
    [fired] = response.json()["fired"]
    assert fired["name"] == "hourly"
    assert datetime.fromisoformat(fired["fire_at"]) == await last_of(database, "hourly")
    [record] = await read_all(database)
    assert (str(record.id), record.owner, record.scope) == (fired["task_id"], "", "schedule")
    assert queue.sent == [record.id]
    assert (await internal.post(path, headers=BEARER)).json() == {"fired": []}


async def test_a_call_for_one_leaves_the_others_alone(
    internal: AsyncClient, declare: Declare, database: Database
) -> None:
    declare("other", every_hour(), add, [1])
    await set_last(database, "hourly", 2 * HOUR)
    await set_last(database, "other", 2 * HOUR)
    for name in "hourly", "other":
        [fired] = (await internal.post(f"/internal/schedules/{name}/run", headers=BEARER)).json()["fired"]
        assert fired["name"] == name


async def test_an_unknown_schedule_is_not_found(internal: AsyncClient) -> None:
    response = await internal.post("/internal/schedules/weekly/run", headers=BEARER)
    assert response.status_code == 404
    assert response.json()["detail"] == "There is no schedule with this name."


def test_production_does_not_start_without_a_token(guarded: Settings) -> None:
    production = dict(guarded) | {"environment": "production", "internal_token": SecretStr("")}
    with pytest.raises(ValidationError, match="INTERNAL_TOKEN is needed in production"):
        Settings.model_validate(production)


@pytest.mark.parametrize("token", ["short", "with a space in between", "x" * 201])
def test_a_token_that_will_not_do_is_refused_without_repeating_it(token: str, guarded: Settings) -> None:
    with pytest.raises(ValidationError, match="16 to 200 characters") as refused:
        Settings.model_validate(dict(guarded) | {"internal_token": SecretStr(token)})
    assert token not in str(refused.value)


@pytest.fixture
def start(guarded: Settings, tmp_path: Path, started: list[ServiceProcess]) -> Callable[..., Any]:
    """Starts a real process of the API, or one that calls it: `start("http://...")`."""

    def start(*urls: str) -> Any:
        log = tmp_path / f"process-{len(started)}.log"
        command = [sys.executable, "-m", "tests.scheduling.caller", *urls]
        process = ServiceProcess(command, guarded, log) if urls else ApiProcess(guarded, log)
        started.append(process)
        process.wait_for("startup complete|calling")
        return process

    return start


async def test_with_two_callers_and_two_processes_each_firing_happens_once(
    start: Callable[..., Any], start_worker: Callable[..., WorkerProcess], guarded: Settings, database: Database
) -> None:
    workers = [start_worker(), start_worker()]
    apis = [start(), start()]
    urls = [f"{api.url}{path}" for api in apis for path in (RUN_DUE, f"/internal/schedules/{NAME}/run")]
    first, second = start(*urls), start(*reversed(urls))
    await wait_for_firings(database, 5)
    first.kill()
    await wait_for_firings(database, 3)
    apis[0].kill()
    await wait_for_firings(database, 3)
    records = await wait_for_the_end(database)
    second.kill()
    for process in apis[1], *workers:
        process.stop()
    await assert_each_happened_once(database, records)
    report("callers", records, [api.log for api in apis])
    told = [line for caller in (first, second) for line in caller.log.splitlines() if line.startswith("fired")]
    assert len(set(told)) == len(told) <= len(records)
