"""/health: what is said when all is well, and what is named when something is down."""

import os
from collections.abc import Iterator

import pytest
from httpx import AsyncClient
from pydantic import SecretStr

from app.settings import Settings
from tests.support import databases
from tests.support.inline import InlineQueue
from tests.support.serving import serving


async def test_ready_says_that_everything_works(client: AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"database": "ok", "broker": "ok"}}
    assert response.headers["Cache-Control"] == "no-store"


async def test_the_real_broker_is_asked(live_client: AsyncClient) -> None:
    assert (await live_client.get("/health/ready")).json()["checks"]["broker"] == "ok"


async def test_without_the_broker_it_is_named_and_the_service_stays_ready(without_broker: Settings) -> None:
    async with serving(without_broker) as client:
        response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["database"] == "ok"
    assert "down" in response.json()["checks"]["broker"]


async def test_without_the_database_it_is_named_and_the_service_is_not_ready(
    without_database: Settings, queue: InlineQueue
) -> None:
    async with serving(without_database, queue) as client:
        response = await client.get("/health/ready")
        assert response.status_code == 503
        assert response.json() == {"status": "unavailable", "checks": {"database": "down", "broker": "ok"}}
        assert (await client.get("/health/live")).status_code == 200


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    """A database in which no migration has run."""
    url = databases.create_migrated(os.environ["TEST_DATABASE_URL"])
    yield url
    databases.drop(os.environ["TEST_DATABASE_URL"], url)


async def test_without_the_migrations_it_says_which_command_to_run(
    settings: Settings, queue: InlineQueue, empty_database_url: str
) -> None:
    empty = settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    async with serving(empty, queue) as client:
        response = await client.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert "alembic upgrade heads" in response.json()["checks"]["database"]


async def test_live_answers_whatever_is_down(settings: Settings, queue: InlineQueue) -> None:
    queue.broken = True
    async with serving(settings, queue) as client:
        response = await client.get("/health/live")
    assert (response.status_code, response.json()["status"]) == (200, "ok")
