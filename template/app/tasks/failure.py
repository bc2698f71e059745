"""What follows a task that failed for good: the task that its `on_failure` names."""

from typing import Any, Protocol
from uuid import UUID

from app.tasks.definition import Task
from app.tasks.new_task import NewTask
from app.tasks.schemas import FailedTask


class Record(Protocol):
    """A record that has failed, as far as it matters here."""

    @property
    def id(self) -> UUID:
        """The task's id."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def payload(self) -> Any:
        """What it was submitted with."""

    @property
    def owner(self) -> str:
        """Who submitted it."""

    @property
    def correlation_id(self) -> str | None:
        """The request it came from."""

    @property
    def traceparent(self) -> str | None:
        """The trace it belongs to."""


def follow_up(task: Task[Any, Any], record: Record, error: dict[str, str]) -> list[NewTask]:
    """Return the task to submit in the transaction that fails the record, if one is declared."""
    if task.on_failure is None:
        return []
    failed = FailedTask(id=record.id, name=record.name, payload=record.payload, error=error)
    return [
        NewTask.of(
            task.on_failure,
            failed,
            owner=record.owner,
            correlation_id=record.correlation_id,
            traceparent=record.traceparent,
        )
    ]
