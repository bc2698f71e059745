"""The task record: the one place that knows whether a task is still owed, and what came of it."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, partial_index


class TaskStatus(StrEnum):
    """Where a task is. Only pending and running can change."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task has ended, so that nothing about it changes any more."""
        return self not in (TaskStatus.PENDING, TaskStatus.RUNNING)


class TaskRecord(Base):
    """One accepted task, from its submission until its retention ends."""

    __tablename__ = "tasks"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(200))
    queue: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(16), default=TaskStatus.PENDING)
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    """Grows at every change that a client can see."""

    payload: Mapped[Any] = mapped_column(JSON)
    result: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    error: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    progress: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)

    owner: Mapped[str] = mapped_column(String(100), default="")
    """Who submitted it; never NULL, because NULLs would not count as equal in the unique key."""
    scope: Mapped[str] = mapped_column(String(200), default="")
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    payload_hash: Mapped[str | None] = mapped_column(String(64))
    correlation_id: Mapped[str | None] = mapped_column(String(128))
    traceparent: Mapped[str | None] = mapped_column(String(55))

    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    crashes: Mapped[int] = mapped_column(default=0)
    """How often a worker was lost with it."""

    run_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    """When a message for it was last sent; NULL: one is owed as soon as it is due."""
    sent_via: Mapped[str | None] = mapped_column(String(40))
    """The queue and broker that message went to."""

    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    """Grows at every claim and is never reset, so that a run which lost its claim can change nothing."""
    claim_token: Mapped[UUID | None]
    worker: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]

    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name="status"),
        # A running task has a lease, and no other has: recovery finds what a dead worker held by its lease alone.
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        # Lists: all of an owner's tasks, by name, and those that are not simply done.
        Index("ix_tasks_owner", "owner", "id"),
        Index("ix_tasks_owner_name", "owner", "name", "id"),
        partial_index("ix_tasks_owner_open", "owner", "status", "id", where="status <> 'completed'"),
        # Recovery: each index holds only what is owed, however many tasks are done.
        partial_index("ix_tasks_unsent", "run_at", where="status = 'pending' AND sent_at IS NULL"),
        partial_index("ix_tasks_sent", "queue", "sent_at", where="status = 'pending' AND sent_at IS NOT NULL"),
        partial_index("ix_tasks_lease", "lease_expires_at", where="status = 'running'"),
        partial_index("ix_tasks_finished", "finished_at", where="finished_at IS NOT NULL"),
        partial_index(
            "uq_tasks_idempotency_key",
            "owner",
            "scope",
            "idempotency_key",
            where="idempotency_key IS NOT NULL",
            unique=True,
        ),
    )


class TaskQueueRecord(Base):
    """What is known of one queue of the broker: how far its messages have been delivered."""

    __tablename__ = "task_queues"

    name: Mapped[str] = mapped_column(String(140), primary_key=True)
    """The transport and the queue on it: engine+broker/default."""
    delivered_to: Mapped[datetime | None]
    """The latest time of sending among the messages that have arrived."""
    probed_at: Mapped[datetime | None]


class TaskScheduleRecord(Base):
    """When a schedule fired last, kept apart from the tasks so that their retention cannot make it fire again."""

    __tablename__ = "task_schedules"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    last_fire_at: Mapped[datetime]
