"""The tables of signups, of the tokens that confirm them, and of their audit trail."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id


class Signup(Base):
    """Somebody who signed up."""

    __tablename__ = "signups"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    confirmed_at: Mapped[datetime | None]


class ConfirmationToken(Base):
    """What is sent to an address, to come back from whoever reads its mail. Only the digest is kept, for a day."""

    __tablename__ = "confirmation_tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    signup_id: Mapped[UUID] = mapped_column(ForeignKey("signups.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(index=True)


class AuditLine(Base):
    """Something that happened, written down on a best-effort basis."""

    __tablename__ = "audit_lines"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    event: Mapped[str] = mapped_column(String(100))
    subject: Mapped[str] = mapped_column(String(254))
    correlation_id: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime]
