"""Errors and ids of requests: every error is a problem+json, tells no secret, and can be found in the log."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from fastapi import APIRouter
from httpx import AsyncClient
from pydantic import BaseModel
from structlog.testing import capture_logs

from app.settings import Settings
from app.tasks import TaskAccepted, Tasks
from tests.support.inline import InlineQueue
from tests.support.sample_tasks import add
from tests.support.serving import serving

router = APIRouter(prefix="/sample")


class Login(BaseModel):
    """A body with a secret in it."""

    password: int


@router.post("/login")
async def log_in(login: Login) -> None:
    """Take a body."""


@router.get("/breaks")
async def break_down() -> None:
    """Raise an error that nobody expects."""
    raise RuntimeError("secret: hunter2")


@router.post("/submit", status_code=202)
async def submit(tasks: Tasks) -> TaskAccepted:
    """Submit a task."""
    return await tasks.submit(add, [1])


@pytest.fixture
async def sample_client(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of the API with the routes of this file."""
    async with serving(settings, queue, router) as client:
        yield client


async def test_an_unknown_route_is_a_problem(client: AsyncClient) -> None:
    response = await client.get("/nowhere")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {"type": "about:blank", "title": "Not Found", "status": 404}


async def test_a_wrong_method_is_a_problem_that_says_which_are_right(client: AsyncClient) -> None:
    response = await client.delete("/tasks")
    assert response.status_code == 405
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"json": {"password": "hunter2"}}, ["body", "password"]),
        ({"json": {"wrong": "hunter2"}}, ["body", "password"]),
        ({"json": ["hunter2"]}, ["body"]),
        ({"content": "{hunter2"}, ["body", "1"]),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_without_repeating_it(
    body: dict[str, Any], location: list[str], sample_client: AsyncClient
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await sample_client.post("/sample/login", headers=headers, **body)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["title"]) == (422, HTTPStatus(422).phrase)
    assert [error["location"] for error in problem["errors"]] == [location]
    assert "hunter2" not in response.text


async def test_an_unexpected_error_is_logged_and_not_told(sample_client: AsyncClient) -> None:
    with capture_logs() as log:
        response = await sample_client.get("/sample/breaks", headers={"X-Request-ID": "order-7"})
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == "order-7"
    assert "hunter2" not in response.text
    assert ["hunter2" in str(line.get("exc_info")) for line in log] == [True]


async def test_without_the_database_a_submission_is_told_to_come_again(
    without_database: Settings, queue: InlineQueue
) -> None:
    async with serving(without_database, queue, router) as client:
        response = await client.post("/sample/submit")
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "2"
    assert "Location" not in response.headers
    assert queue.messages == []


async def test_a_clients_request_id_comes_back(client: AsyncClient) -> None:
    response = await client.get("/health/live", headers={"X-Request-ID": "shop:order/77=a+b.c_d-e"})
    assert response.headers["X-Request-ID"] == "shop:order/77=a+b.c_d-e"


@pytest.mark.parametrize("bad", [b"", b"two words", b'quote"', b"x" * 129, b"a\ttab", b"\xfcnicode"])
async def test_a_request_id_that_does_not_belong_in_a_log_is_replaced(bad: bytes, client: AsyncClient) -> None:
    response = await client.get("/health/live", headers=[(b"X-Request-ID", bad)])
    assert response.status_code == 200
    given = response.headers["X-Request-ID"]
    assert given.isalnum()
    assert len(given) >= 32


async def test_each_request_without_an_id_gets_one_of_its_own(client: AsyncClient) -> None:
    given = {(await client.get("/health/live")).headers["X-Request-ID"] for _ in range(3)}
    assert len(given) == 3
