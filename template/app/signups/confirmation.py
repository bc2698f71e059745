"""Confirming an address: a token goes there by mail, and counts if it comes back within a day."""

import secrets
from hashlib import sha256
from uuid import UUID

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert, now, plus
from app.signups.models import ConfirmationToken, Signup

LIFETIME_SECONDS = 86_400.0


async def create_token(session: AsyncSession, signup_id: UUID) -> str:
    """Return a new token; the database gets its digest only."""
    token = secrets.token_urlsafe(24)
    row = {"digest": _digest(token), "signup_id": signup_id, "created_at": now()}
    await session.execute(insert(ConfirmationToken).values(row))
    return token


async def confirm(session: AsyncSession, token: str) -> bool:
    """Use a token up. Returns False if there is none like it, or it is older than a day."""
    fresh = ConfirmationToken.created_at >= plus(now(), -LIFETIME_SECONDS)
    mine = delete(ConfirmationToken).where(ConfirmationToken.digest == _digest(token), fresh)
    signup_id = await session.scalar(mine.returning(ConfirmationToken.signup_id))
    if signup_id is None:
        return False
    await session.execute(update(Signup).where(Signup.id == signup_id).values(confirmed_at=now()))
    return True


async def delete_expired(session: AsyncSession) -> int:
    """Delete the tokens that are older than a day. Returns how many."""
    expired = delete(ConfirmationToken).where(ConfirmationToken.created_at < plus(now(), -LIFETIME_SECONDS))
    return len((await session.scalars(expired.returning(ConfirmationToken.digest))).all())


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
