"""What the tasks need of a queue: a transport for ids. Each engine is one file beside this one."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

NOT_OURS = (TypeError, ValueError, AttributeError, OverflowError)
"""What reading a message raises that somebody else has sent."""


@dataclass(frozen=True)
class Message:
    """Ids of tasks that are due, and when they were sent by the database's time; without ids it is a probe.

    Raises ValueError or OverflowError for a time that no part of this service sends.
    """

    queue: str
    ids: tuple[UUID, ...]
    sent_at: datetime

    def __post_init__(self) -> None:
        if self.sent_at.tzinfo is None:
            raise ValueError(f"sent_at={self.sent_at!r} has no time zone")
        # Not only when it is stored: the end of year 9999 in the west is no time at all in UTC.
        object.__setattr__(self, "sent_at", self.sent_at.astimezone(UTC))


Deliver = Callable[[Message], Awaitable[None]]
"""What an engine calls in a worker with each message that arrives."""


class TaskQueue(Protocol):
    """Carries messages to workers, at least once if nothing fails; what it loses is sent again from the records."""

    @property
    def via(self) -> str:
        """Engine and broker, as records remember it: a message sent through another one will not arrive."""

    @property
    def ids_per_message(self) -> int:
        """How many ids go into one message at most."""

    async def open(self) -> None:
        """Prepare for sending. Succeeds although the broker is down."""

    async def close(self) -> None:
        """Close all connections."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Send the messages, or raise. Raises TimeoutError rather than wait long for a broker."""

    async def depth(self, queue: str) -> int:
        """Return how many messages wait in the queue; raises if the broker cannot be asked."""
