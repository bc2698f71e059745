"""The table of finished reports."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Report(Base):
    """One report; its id is that of the task that computed it, so that computing it again replaces it."""

    __tablename__ = "reports"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    content: Mapped[Any] = mapped_column(JSON)
    created_at: Mapped[datetime]
