"""The tables of the tasks: records, queues, schedules."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "tasks_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("tasks",)
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "task_queues",
        sa.Column("name", sa.String(length=140), nullable=False),
        sa.Column("delivered_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("probed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_task_queues")),
    )
    op.create_table(
        "task_schedules",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("last_fire_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_task_schedules")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("queue", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("scope", sa.String(length=200), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("payload_hash", sa.String(length=64), nullable=True),
        sa.Column("correlation_id", sa.String(length=128), nullable=True),
        sa.Column("traceparent", sa.String(length=55), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_via", sa.String(length=40), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("worker", sa.String(length=120), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name=op.f("ck_tasks_lease")),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name=op.f("ck_tasks_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    partial_index("ix_tasks_finished", ["finished_at"], where="finished_at IS NOT NULL")
    partial_index("ix_tasks_lease", ["lease_expires_at"], where="status = 'running'")
    op.create_index("ix_tasks_owner", "tasks", ["owner", "id"])
    op.create_index("ix_tasks_owner_name", "tasks", ["owner", "name", "id"])
    partial_index("ix_tasks_owner_open", ["owner", "status", "id"], where="status <> 'completed'")
    partial_index("ix_tasks_sent", ["queue", "sent_at"], where="status = 'pending' AND sent_at IS NOT NULL")
    partial_index("ix_tasks_unsent", ["run_at"], where="status = 'pending' AND sent_at IS NULL")
    partial_index(
        "uq_tasks_idempotency_key",
        ["owner", "scope", "idempotency_key"],
        where="idempotency_key IS NOT NULL",
        unique=True,
    )


def downgrade() -> None:
    """Drop the tables, and with them every record."""
    op.drop_table("tasks")
    op.drop_table("task_schedules")
    op.drop_table("task_queues")


def partial_index(name: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    """Index only the rows that fulfil the condition, in the words of the database that is migrated."""
    options: dict[str, Any] = {f"{op.get_context().dialect.name}_where": sa.text(where)}
    op.create_index(name, "tasks", columns, unique=unique, **options)
