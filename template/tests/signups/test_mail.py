"""The welcome e-mail: it arrives at a real mail server, once that server takes it."""

from urllib.parse import quote

import pytest
from pydantic import SecretStr, ValidationError

from app.database import Database
from app.settings import Settings
from app.signups.schemas import Welcome
from app.signups.tasks import send_welcome
from app.tasks import NewTask, Submitter, TaskRecord
from scripts.servers.process import free_port
from tests.signups.conftest import PASSWORD, Mailbox
from tests.support.inline import TaskRunner
from tests.support.processes import own_settings
from tests.support.records import read, seconds_until_run

ADA = Welcome(email="ada@example.org", name="Ada Lovelace ✨", token="the-token")


async def first_attempt(submitter: Submitter, run_tasks: TaskRunner, database: Database) -> TaskRecord:
    """Submit a welcome, run one attempt, and return the record."""
    accepted = await submitter.submit(NewTask.of(send_welcome, ADA))
    await run_tasks.deliver()
    return await read(database, accepted.id)


async def test_the_welcome_arrives(submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox) -> None:
    await submitter.submit(NewTask.of(send_welcome, ADA))
    [record] = await run_tasks()
    [message] = mailbox.delivered
    assert (message["To"], message["Subject"]) == ("ada@example.org", "Welcome")
    assert "Dear Ada Lovelace ✨," in message.get_content()
    assert str(record.id) in message["Message-ID"]
    assert record.result == {"sent": True, "message_id": message["Message-ID"]}


async def test_a_server_that_is_busy_gets_the_mail_later(
    submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox, database: Database
) -> None:
    mailbox.recipient_answers = ["451 4.3.2 try again later"]
    record = await first_attempt(submitter, run_tasks, database)
    assert (record.status, record.attempt, mailbox.delivered) == ("pending", 1, [])
    assert 0 < await seconds_until_run(database, record.id) <= 2
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.error) == ("completed", 2, None)
    assert len(mailbox.delivered) == 1


async def test_all_attempts_carry_the_same_message_id(
    submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox
) -> None:
    mailbox.data_answers = ["451 4.3.0 disk full", "452 4.2.2 mailbox full"]
    await submitter.submit(NewTask.of(send_welcome, ADA))
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("completed", 3)
    assert len({message["Message-ID"] for message in mailbox.offered}) == 1
    assert len(mailbox.offered) == 3


async def test_a_server_that_is_down_gets_the_mail_later(
    settings: Settings, submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    nowhere = SecretStr(f"smtp://127.0.0.1:{free_port()}")
    with own_settings(settings.model_copy(update={"smtp_url": nowhere})):
        record = await first_attempt(submitter, run_tasks, database)
    assert (record.status, record.attempt) == ("pending", 1)


@pytest.mark.parametrize("answers", ["recipient_answers", "data_answers"])
async def test_what_is_refused_for_good_fails_the_task(
    answers: str, submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox
) -> None:
    setattr(mailbox, answers, ["550 5.1.1 not with us"])
    await submitter.submit(NewTask.of(send_welcome, ADA))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.error["type"]) == ("failed", 1, "TaskFailed")
    assert "for good" in record.error["message"]
    assert mailbox.delivered == []


@pytest.mark.parametrize(
    ("password", "host", "status", "logins"),
    [
        (PASSWORD, "127.0.0.1", "completed", [(b"shop@example.org", PASSWORD.encode())]),
        ("wrong", "127.0.0.1", "failed", [(b"shop@example.org", b"wrong")]),
        (PASSWORD, "0.0.0.0", "pending", []),  # for all it knows another host, and the server cannot encrypt
    ],
)
async def test_a_password_is_told_to_this_host_or_encrypted(
    password: str,
    host: str,
    status: str,
    logins: list[tuple[bytes, bytes]],
    settings: Settings,
    submitter: Submitter,
    run_tasks: TaskRunner,
    mailbox: Mailbox,
    database: Database,
) -> None:
    user = f"shop%40example.org:{quote(password, safe='')}@{host}"
    url = SecretStr(mailbox.url.replace("127.0.0.1", user))
    with own_settings(settings.model_copy(update={"smtp_url": url})):
        record = await first_attempt(submitter, run_tasks, database)
    assert (record.status, record.attempt, list(dict.fromkeys(mailbox.logins))) == (status, 1, logins)
    assert len(mailbox.delivered) == (status == "completed")


async def test_a_server_that_never_takes_it_fails_the_task_in_the_end(
    submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox
) -> None:
    mailbox.recipient_answers = ["451 4.3.2 try again later"] * 100
    await submitter.submit(NewTask.of(send_welcome, ADA))
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("failed", 8)
    assert "ada@example.org" not in str(record.error)


async def test_without_a_server_the_task_says_that_nothing_was_sent(
    settings: Settings, submitter: Submitter, run_tasks: TaskRunner, mailbox: Mailbox
) -> None:
    with own_settings(settings.model_copy(update={"smtp_url": SecretStr("")})):
        await submitter.submit(NewTask.of(send_welcome, ADA))
        [record] = await run_tasks()
    assert record.status == "completed"
    assert record.result["sent"] is False
    assert mailbox.offered == []


def test_production_does_not_start_without_a_server(settings: Settings) -> None:
    production = {"environment": "production", "api_keys": SecretStr("shop:" + "k" * 32), "smtp_url": SecretStr("")}
    with pytest.raises(ValidationError, match="SMTP_URL is needed in production"):
        Settings.model_validate(dict(settings) | production)


@pytest.mark.parametrize("url", ["mail.example.org", "http://mail.example.org", "smtp://"])
def test_a_url_of_no_mail_server_is_refused(url: str, settings: Settings) -> None:
    with pytest.raises(ValidationError, match="use smtp://user:password@host:587"):
        Settings.model_validate(dict(settings) | {"smtp_url": SecretStr(url)})
