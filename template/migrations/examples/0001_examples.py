"""The tables of the example features."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "examples_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("examples",)
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "reports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_table(
        "signups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signups")),
        sa.UniqueConstraint("email", name=op.f("uq_signups_email")),
    )
    op.create_table(
        "confirmation_tokens",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("signup_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["signup_id"], ["signups.id"], name=op.f("fk_confirmation_tokens_signup_id_signups"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_confirmation_tokens")),
    )
    op.create_index(op.f("ix_confirmation_tokens_created_at"), "confirmation_tokens", ["created_at"])
    op.create_table(
        "audit_lines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=254), nullable=False),
        sa.Column("correlation_id", sa.String(length=128), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_lines")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("audit_lines")
    op.drop_table("confirmation_tokens")
    op.drop_table("signups")
    op.drop_table("reports")
