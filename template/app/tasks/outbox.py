"""Sending after the caller's commit: what a session has submitted waits here until it is committed."""

from collections.abc import Callable, Sequence

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session as SyncSession

from app.queues.base import Message

Send = Callable[[Sequence[Message]], object]
OUTBOX = "task_outbox"


class Outbox:
    """The messages that a session sends after its commit, and forgets in a rollback."""

    def __init__(self, send: Send) -> None:
        self.is_open = False
        """Whether something was submitted that is not committed."""
        self._send = send
        self._messages: list[Message] = []

    def add(self, messages: Sequence[Message]) -> None:
        """Note what is to be sent after the commit."""
        self.is_open = True
        self._messages += messages

    def flush(self, session: SyncSession) -> None:
        """Send, if this was the commit itself and not the end of a savepoint."""
        if session.get_nested_transaction() is None:
            messages, self._messages = self._messages, []
            self.is_open = False
            if messages:
                self._send(messages)

    def forget(self, session: SyncSession) -> None:
        """Drop what will not be committed. What a savepoint undoes stays: a message without a record does nothing."""
        if session.get_nested_transaction() is None:
            self._messages.clear()
            self.is_open = False


def outbox(session: AsyncSession, send: Send) -> Outbox:
    """Return the session's outbox; `send` is called with its messages after the commit."""
    info = session.sync_session.info
    if OUTBOX not in info:
        info[OUTBOX] = Outbox(send)
        event.listen(session.sync_session, "after_commit", info[OUTBOX].flush)
        event.listen(session.sync_session, "after_rollback", info[OUTBOX].forget)
    box: Outbox = info[OUTBOX]
    return box


def is_uncommitted(session: AsyncSession) -> bool:
    """Tell whether the session holds submissions that are not committed."""
    box: Outbox | None = session.sync_session.info.get(OUTBOX)
    return box is not None and box.is_open
