"""Confirming a signup: the token that was mailed works once, for a day, and is then cleaned away."""

from datetime import datetime

from httpx import AsyncClient
from sqlalchemy import func, select, update

from app.database import Database, now, plus
from app.signups.models import ConfirmationToken, Signup
from app.signups.tasks import cleanup_expired_tokens
from app.tasks import NewTask, Submitter
from tests.signups.conftest import Mailbox
from tests.support.inline import TaskRunner

ADA = {"email": "ada@example.org", "name": "Ada"}
DAY = 86_400.0


async def sign_up(client: AsyncClient, run_tasks: TaskRunner, mailbox: Mailbox, **person: str) -> str:
    """Sign up, and return the token that came by mail."""
    assert (await client.post("/signups", json=ADA | person)).status_code == 202
    await run_tasks()
    return str(mailbox.delivered[-1].get_content()).split()[-1]


async def age(database: Database, seconds: float) -> None:
    """Let all tokens there are be so much older."""
    async with database.begin() as connection:
        await connection.execute(update(ConfirmationToken).values(created_at=plus(now(), -seconds)))


async def tokens(database: Database) -> int:
    """Return how many tokens there are."""
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(ConfirmationToken)) or 0


async def confirmed(database: Database) -> list[datetime | None]:
    """Return when each signup was confirmed."""
    async with database.read() as session:
        return list(await session.scalars(select(Signup.confirmed_at)))


async def test_the_mailed_token_confirms_once(
    client: AsyncClient, run_tasks: TaskRunner, mailbox: Mailbox, database: Database
) -> None:
    token = await sign_up(client, run_tasks, mailbox)
    assert await confirmed(database) == [None]
    assert (await client.post(f"/signups/confirmations/{token}")).status_code == 204
    [when] = await confirmed(database)
    assert when is not None
    assert await tokens(database) == 0
    again = await client.post(f"/signups/confirmations/{token}")
    assert again.status_code == 404
    assert token not in again.text


async def test_a_wrong_or_an_old_token_confirms_nothing(
    client: AsyncClient, run_tasks: TaskRunner, mailbox: Mailbox, database: Database
) -> None:
    token = await sign_up(client, run_tasks, mailbox)
    assert (await client.post(f"/signups/confirmations/{token}x")).status_code == 404
    await age(database, DAY + 1)
    assert (await client.post(f"/signups/confirmations/{token}")).status_code == 404
    assert await confirmed(database) == [None]


async def test_the_token_itself_is_not_in_its_table(
    client: AsyncClient, run_tasks: TaskRunner, mailbox: Mailbox, database: Database
) -> None:
    token = await sign_up(client, run_tasks, mailbox)
    async with database.read() as session:
        [digest] = await session.scalars(select(ConfirmationToken.digest))
    assert len(token) >= 32
    assert token not in digest


async def test_the_clean_up_deletes_what_is_older_than_a_day(
    client: AsyncClient, run_tasks: TaskRunner, mailbox: Mailbox, database: Database, submitter: Submitter
) -> None:
    await sign_up(client, run_tasks, mailbox)
    await sign_up(client, run_tasks, mailbox, email="bob@example.org")
    await age(database, DAY + 1)
    fresh = await sign_up(client, run_tasks, mailbox, email="eve@example.org")
    for deleted in 2, 0:
        await submitter.submit(NewTask.of(cleanup_expired_tokens, None))
        record = (await run_tasks())[-1]
        assert (record.status, record.result) == ("completed", deleted)
    assert await tokens(database) == 1
    assert (await client.post(f"/signups/confirmations/{fresh}")).status_code == 204
    assert len(await confirmed(database)) == 3
