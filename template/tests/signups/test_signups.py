"""/signups: the row and the task are committed together, and the response waits for nothing else."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from httpx import AsyncClient
from sqlalchemy import select, text
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from app.database import Database
from app.factory import create_app
from app.settings import Settings
from app.signups.models import AuditLine, Signup
from app.tasks import TaskRecord
from tests.signups.conftest import Mailbox
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.processes import WorkerProcess
from tests.support.records import count, read
from tests.support.serving import connected
from tests.support.waiting import until

ADA = {"email": "ada@example.org", "name": "Ada"}


async def read_signups(database: Database) -> list[str]:
    """Return the addresses that are signed up."""
    async with database.read() as session:
        return list(await session.scalars(select(Signup.email).order_by(Signup.email)))


async def read_audit(database: Database) -> list[AuditLine]:
    """Return the audit trail."""
    async with database.read() as session:
        return list(await session.scalars(select(AuditLine)))


async def drop(database: Database, table: str) -> None:
    """Take a table away, so that writing to it fails."""
    async with database.begin() as connection:
        await connection.execute(text(f"DROP TABLE {table}"))


def answered(app: ASGIApp, then: Callable[[], Awaitable[None]]) -> ASGIApp:
    """Return the application, with something done as soon as the client has its whole answer."""

    async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_then(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await then()

        await app(scope, receive, send_then)

    return wrapper


async def test_a_signup_records_the_row_and_the_task(
    client: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    response = await client.post("/signups", json=ADA, headers={"X-Request-ID": "visit-7"})
    assert response.status_code == 202
    assert await read_signups(database) == ["ada@example.org"]
    [task_id] = queue.sent
    assert response.headers["Location"] == f"/tasks/{task_id}"
    record = await read(database, task_id)
    assert (record.name, record.status, record.correlation_id) == ("signups.send_welcome", "pending", "visit-7")


async def test_without_the_task_there_is_no_row(client: AsyncClient, database: Database, queue: InlineQueue) -> None:
    await drop(database, "tasks")
    response = await client.post("/signups", json=ADA)
    assert response.is_server_error
    assert await read_signups(database) == []
    assert await read_audit(database) == []
    assert queue.messages == []


async def test_an_address_signs_up_once(client: AsyncClient, database: Database, queue: InlineQueue) -> None:
    assert (await client.post("/signups", json=ADA)).status_code == 202
    for again in ADA, {"email": "ADA@Example.org", "name": "Somebody else"}:
        response = await client.post("/signups", json=again)
        assert response.status_code == 409
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "Location" not in response.headers
    assert len(queue.sent) == 1
    assert await count(database) == 1
    assert [line.event for line in await read_audit(database)] == ["signed up"]


async def test_of_signups_at_the_same_moment_one_counts(
    client: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    responses = await asyncio.gather(*(client.post("/signups", json=ADA) for _ in range(5)))
    assert sorted(response.status_code for response in responses) == [202, 409, 409, 409, 409]
    await until(lambda: len(queue.sent) == 1)
    assert await count(database) == 1


async def test_a_signup_that_does_not_fit_is_refused_without_repeating_it(
    client: AsyncClient, database: Database
) -> None:
    for wrong in {"email": "hunter2", "name": "Ada"}, {**ADA, "name": "hunter2\0"}, {**ADA, "name": "hunter2 \ud83d"}:
        body = json.dumps(wrong)
        response = await client.post("/signups", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert "hunter2" not in response.text
    assert await read_signups(database) == []


async def test_the_audit_line_is_written_after_the_response(
    settings: Settings, database: Database, queue: InlineQueue
) -> None:
    at_the_response: list[tuple[int, int]] = []

    async def look() -> None:
        at_the_response.append((len(await read_signups(database)), len(await read_audit(database))))

    app = create_app(settings, queue)
    async with app.router.lifespan_context(app), connected(answered(app, look)) as client:
        await client.post("/signups", json=ADA, headers={"X-Request-ID": "visit-7"})
    assert at_the_response == [(1, 0)]
    [line] = await read_audit(database)
    assert (line.event, line.subject, line.correlation_id) == ("signed up", "ada@example.org", "visit-7")


async def test_an_audit_line_that_cannot_be_written_is_logged_and_harms_nothing(
    client: AsyncClient, database: Database, mailbox: Mailbox, run_tasks: TaskRunner
) -> None:
    await drop(database, "audit_lines")
    with capture_logs() as log:
        response = await client.post("/signups", json=ADA, headers={"X-Request-ID": "visit-7"})
    assert response.status_code == 202
    [line] = [line for line in log if line["log_level"] == "error"]
    assert (line["event"], line["audit_event"], line["correlation_id"]) == ("audit line lost", "signed up", "visit-7")
    assert await read_signups(database) == ["ada@example.org"]
    [record] = await run_tasks()
    assert record.status == "completed"
    assert len(mailbox.delivered) == 1


async def test_the_response_does_not_wait_for_the_mail_that_a_real_worker_sends(
    live_client: AsyncClient,
    mailbox: Mailbox,
    start_worker: Callable[..., WorkerProcess],
    wait_for_task: Callable[..., Awaitable[TaskRecord]],
) -> None:
    mailbox.open.clear()  # the mail server says nothing until the response is there
    start_worker()
    response = await live_client.post("/signups", json=ADA)
    task_id = response.headers["Location"].removeprefix("/tasks/")
    await until(lambda: len(mailbox.offered) == 1)
    await wait_for_task(task_id, "running")
    assert mailbox.delivered == []
    mailbox.open.set()
    record = await wait_for_task(task_id, "completed")
    assert record.result["sent"] is True
    assert [message["To"] for message in mailbox.delivered] == ["ada@example.org"]
