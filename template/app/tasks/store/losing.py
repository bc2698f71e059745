"""Statements about what a dead process held, for those who saw it die."""

from sqlalchemy import select, update

from app.database import Connection, now
from app.tasks.store.rows import RUNNING, Claim, pick, t, tasks
from app.tasks.store.running import CLAIMED


async def find_held(connection: Connection, worker: str) -> list[Claim]:
    """Return the tasks that a process holds."""
    rows = (await connection.execute(select(*CLAIMED).where(RUNNING, t.worker == worker))).all()
    return [Claim(**row._mapping) for row in rows]


async def end_leases(connection: Connection, worker: str) -> None:
    """Let the leases of a process run out now."""
    held = RUNNING & (t.worker == worker)
    picked = pick(held)
    await connection.execute(update(tasks).where(t.id == picked.c.id, held).values(lease_expires_at=now()))
