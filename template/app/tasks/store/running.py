"""Statements of a worker that runs tasks: claiming them, keeping their leases, telling their progress."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    and_,
    func,
    null,
    or_,
    select,
    update,
)

from app.database import Connection, now, plus
from app.tasks.store.rows import PENDING, RUNNING, AnyRow, Claim, Pair, changed, is_held, pick, t, tasks

CLAIMED = [tasks.c[name] for name in Claim.__dataclass_fields__]


async def claim(
    connection: Connection,
    ids: Collection[UUID],
    *,
    known: Collection[str],
    worker: str,
    token: UUID,
    lease: float,
    may_take_suspect: bool,
) -> list[Claim]:
    """Claim those of the tasks that are due, that nobody has, and whose names this worker knows.

    A suspect is a task with which a worker was lost; at most one is claimed, and only if `may_take_suspect`.
    """
    wanted = and_(t.id.in_(ids), PENDING, t.run_at <= now(), t.name.in_(known))
    unsuspected = t.crashes == 0
    if may_take_suspect:
        first = select(t.id).where(wanted, t.crashes > 0).order_by(t.id).limit(1).scalar_subquery()
        unsuspected = or_(unsuspected, t.id == first)
    picked = pick(wanted & unsuspected)
    statement = (
        update(tasks)
        .where(t.id == picked.c.id, PENDING)
        .values(
            status="running",
            attempt=t.attempt + 1,
            fence=t.fence + 1,
            version=t.version + 1,
            worker=worker,
            claim_token=token,
            lease_expires_at=plus(now(), lease),
            started_at=func.coalesce(t.started_at, now()),
        )
        .returning(*CLAIMED)
    )
    return [_claim(row) for row in (await connection.execute(statement)).all()]


async def find_claimed(connection: Connection, ids: Collection[UUID], tokens: Collection[UUID]) -> list[Claim]:
    """Return what claims with these tokens took, for when the answer to their commit was lost."""
    statement = select(*CLAIMED).where(t.id.in_(ids), RUNNING, t.claim_token.in_(tokens))
    return [_claim(row) for row in (await connection.execute(statement)).all()]


async def put_off(connection: Connection, ids: Collection[UUID], seconds: float) -> None:
    """Make due tasks that a worker may not take yet due again a little later."""
    due = PENDING & (t.run_at <= now())
    mine = pick(due & t.id.in_(ids))
    later = {"sent_at": null(), "run_at": plus(now(), seconds), "version": t.version + 1}
    await connection.execute(update(tasks).where(t.id == mine.c.id, due).values(later))


async def find_suspects(connection: Connection, ids: Collection[UUID]) -> list[UUID]:
    """Return which of the tasks are due and were with a worker that was lost."""
    suspects = select(t.id).where(t.id.in_(ids), PENDING, t.run_at <= now(), t.crashes > 0)
    result = await connection.scalars(suspects)
    return list(result)


async def renew(connection: Connection, pairs: Collection[Pair], lease: float) -> dict[Pair, bool]:
    """Extend the leases of what runs here. Returns those extended, each with whether its cancellation is asked for.

    A row that somebody has locked at the moment, perhaps this process to settle it, is left out.
    """
    held = is_held(pairs)
    mine = pick(held)
    statement = (
        update(tasks)
        .where(t.id == mine.c.id, held)
        .values(lease_expires_at=plus(now(), lease))
        .returning(t.id, t.fence, t.cancel_requested_at)
    )
    rows = (await connection.execute(statement)).all()
    return {(row.id, row.fence): row.cancel_requested_at is not None for row in rows}


async def still_held(connection: Connection, pairs: Collection[Pair]) -> set[Pair]:
    """Return which of the claims still stand."""
    rows = (await connection.execute(select(t.id, t.fence).where(is_held(pairs)))).all()
    return {(row.id, row.fence) for row in rows}


async def record_progress(connection: Connection, pair: Pair, progress: Mapping[str, Any]) -> bool:
    """Store how far a running task is. Returns whether its claim still stands."""
    statement = update(tasks).where(is_held([pair])).values(progress=progress, version=t.version + 1)
    return await changed(connection, statement.returning(t.id))


def _claim(row: AnyRow) -> Claim:
    return Claim(**row._mapping)
