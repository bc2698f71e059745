"""A real mail server on this machine, that the signups' tests tell what to answer."""

import asyncio
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pydantic import SecretStr

from app.settings import Settings
from scripts.servers.process import free_port
from tests.support.processes import own_settings
from tests.support.waiting import PATIENCE_SECONDS

OK = "250 OK"
PASSWORD = "p@ss:word/%"


class Mailbox:
    """What the server has taken, and how it answers. It runs in a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self.offered: list[EmailMessage] = []
        """Every message that came, those that were then refused included."""
        self.delivered: list[EmailMessage] = []
        self.recipient_answers: list[str] = []
        """What to say to the next recipients; after that, that all is well."""
        self.data_answers: list[str] = []
        """What to say to the next messages; after that, that all is well."""
        self.logins: list[tuple[bytes, bytes]] = []
        """Who has logged in, and with which password."""
        self.open = threading.Event()
        """Clear it to let the server answer only when it is set again."""
        self.open.set()

    def log_in(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        """Take everybody whose password is right."""
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    async def handle_RCPT(  # noqa: N802 (the server calls it so)
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take a recipient, or refuse it."""
        answer = self.recipient_answers.pop(0) if self.recipient_answers else OK
        if answer == OK:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a message, or refuse it."""
        content = envelope.content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, EmailMessage, policy=default)
        self.offered.append(message)
        await asyncio.to_thread(self.open.wait, PATIENCE_SECONDS)
        answer = self.data_answers.pop(0) if self.data_answers else OK
        if answer == OK:
            self.delivered.append(message)
        return answer


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A mail server; the settings' SMTP_URL leads to it."""
    mailbox = Mailbox()
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=free_port(),
        ready_timeout=PATIENCE_SECONDS,
        authenticator=mailbox.log_in,
        auth_require_tls=False,
    )
    mailbox.url = f"smtp://127.0.0.1:{controller.port}"
    controller.start()
    yield mailbox
    mailbox.open.set()
    controller.stop()


@pytest.fixture
def settings(settings: Settings, mailbox: Mailbox) -> Iterator[Settings]:
    """The test's settings, with the mail server."""
    with_mail = settings.model_copy(update={"smtp_url": SecretStr(mailbox.url)})
    with own_settings(with_mail):
        yield with_mail
