"""The start of your own revisions; it comes after the tables of the tasks, so that yours can refer to them."""

from collections.abc import Sequence

revision: str = "app_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = ("app",)
depends_on: str | Sequence[str] | None = ("tasks_0001",)


def upgrade() -> None:
    """Change nothing."""


def downgrade() -> None:
    """Change nothing."""
