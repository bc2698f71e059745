"""Which PostgreSQL driver moves a task record faster through SQLAlchemy asyncio: asyncpg or psycopg.

Both do the same work on the same table in alternated rounds (A B A B ...), on asyncio's loop and on uvloop.
The table stands in a schema of its own, dropped at the end. Printed are medians: operations a second (rows,
where they are grouped in fifties), their ratio, and this process's CPU microseconds for one.
"""

import argparse
import asyncio
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import product
from statistics import median
from typing import Any

import sqlalchemy as sa
import uvloop
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

DRIVERS = ("postgresql+asyncpg", "postgresql+psycopg")
CONCURRENCY, COUNT, GROUP, SCHEMA = 50, 400, 50, f"bench_drivers_{uuid.uuid4().hex[:8]}"
ROW: dict[str, Any] = {"status": "pending", "name": "reports.build", "queue": "default"}
PAYLOAD = {"customer": "c-1029", "month": "2025-01", "recipients": ["a@example.org", "b@example.org"]}

tasks = sa.Table(
    "tasks",
    sa.MetaData(schema=SCHEMA),
    sa.Column("id", sa.Uuid, primary_key=True),
    *(sa.Column(name, sa.String(200), nullable=False) for name in ("status", "name", "queue")),
    sa.Column("run_at", sa.DateTime(timezone=True), server_default=sa.func.statement_timestamp()),
    *(sa.Column(name, sa.BigInteger, nullable=False, default=0) for name in ("fence", "attempt")),
    sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
    *(sa.Column(name, sa.JSON) for name in ("payload", "result")),
)
c = tasks.c
due = sa.Index("tasks_due", c.queue, c.run_at, postgresql_where=c.status == "pending")
CREATE = (sa.schema.CreateSchema(SCHEMA), sa.schema.CreateTable(tasks), sa.schema.CreateIndex(due))

NOW, LEASE = sa.func.statement_timestamp(), sa.bindparam("lease", type_=sa.Interval)
SUBMIT = sa.insert(tasks).returning(c.id, c.run_at)
CHOSEN = (
    sa.select(c.id)
    .where(c.id == sa.any_(sa.bindparam("ids", type_=ARRAY(sa.Uuid))), c.status == "pending")
    .where(c.name == sa.any_(sa.bindparam("known", type_=ARRAY(sa.String))), c.run_at <= NOW)
    .order_by(c.id)
    .limit(sa.bindparam("free", type_=sa.Integer))
    .with_for_update(key_share=True, skip_locked=True)
    .cte("c")
    .prefix_with("MATERIALIZED")
)
CLAIM = (
    sa.update(tasks)
    .where(c.id == CHOSEN.c.id)
    .values(status="running", attempt=c.attempt + 1, fence=c.fence + 1, lease_expires_at=NOW + LEASE)
    .returning(c.id, c.fence, c.attempt, c.name, c.payload)
)
POLL = sa.select(tasks).where(c.id == sa.bindparam("task_id"))
SETTLE = (
    sa.update(tasks)
    .where(c.id == sa.bindparam("task_id"), c.fence == sa.bindparam("mine"), c.status == "running")
    .values(status="completed", lease_expires_at=None, result={"pages": 12})
)


async def execute(engine: AsyncEngine, *statements: sa.Executable) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


async def each(work: Callable[[Any], Awaitable[None]], items: list[Any], rows: int = COUNT) -> list[float]:
    """Rows a second and CPU microseconds a row, with CONCURRENCY items under way at once."""
    queue = iter(items)

    async def consume() -> None:
        for item in queue:
            await work(item)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(consume() for _ in range(CONCURRENCY)))
    return [rows / (time.perf_counter() - wall), (time.process_time() - cpu) / rows * 1e6]


async def play(engine: AsyncEngine) -> dict[str, list[float]]:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def submit(rows: Any) -> None:
        async with AsyncSession(engine) as session:
            assert (await session.execute(SUBMIT, rows)).all()
            await session.commit()

    async def claim(row: Any) -> None:
        values = {"ids": [row["id"]], "known": [row["name"]], "free": 50, "lease": timedelta(seconds=15)}
        async with engine.begin() as connection:
            assert (await connection.execute(CLAIM, values)).one().fence == 1

    async def settle(row: Any) -> None:
        async with engine.begin() as connection:
            assert (await connection.execute(SETTLE, {"task_id": row["id"], "mine": 1})).rowcount == 1

    async def poll(row: Any) -> None:
        async with autocommit.connect() as connection:
            assert (await connection.execute(POLL, {"task_id": row["id"]})).one().status == "completed"

    await execute(engine, sa.text(f"TRUNCATE {tasks.fullname}"))
    rows = [{**ROW, "id": uuid.uuid4(), "payload": PAYLOAD} for _ in range(5 * COUNT)]
    groups = [rows[i : i + GROUP] for i in range(COUNT, len(rows), GROUP)]
    figures = {"submit in groups": await each(submit, groups, 4 * COUNT)}
    return figures | {work.__name__: await each(work, rows[:COUNT]) for work in (submit, claim, settle, poll)}


def main() -> None:
    parser, url = argparse.ArgumentParser(), os.environ.get("DATABASE_URL")
    parser.add_argument("--database-url", default=url, required=not url, help="default: $DATABASE_URL")
    parser.add_argument("--seconds", type=float, default=45, help="begin no round after this time")
    options = parser.parse_args()
    address, until = sa.make_url(options.database_url), time.monotonic() + options.seconds
    found: dict[tuple[str, str], dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    with asyncio.Runner() as plain, asyncio.Runner(loop_factory=uvloop.new_event_loop) as fast:
        players = []
        for (loop, runner), driver in product((("asyncio", plain), ("uvloop", fast)), DRIVERS):
            engine = create_async_engine(address.set(drivername=driver), pool_size=10, max_overflow=0)
            players.append((loop, driver, runner, engine))
        try:
            plain.run(execute(players[0][3], *CREATE))
            while time.monotonic() < until:
                for loop, driver, runner, engine in players:
                    for step, figure in runner.run(play(engine)).items():
                        found[loop, step][driver].append(figure)
        finally:
            plain.run(execute(players[0][3], sa.schema.DropSchema(SCHEMA, cascade=True, if_exists=True)))
            for _, _, runner, engine in players:
                runner.run(engine.dispose())

    print("| loop | step | asyncpg/s | psycopg/s | ratio | asyncpg CPU us | psycopg CPU us | rounds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for (loop, step), drivers in found.items():
        kept = [drivers[driver][1:] for driver in DRIVERS]  # the first round only warms up
        (a, x), (b, y) = (map(median, zip(*figures, strict=True)) for figures in kept)
        print(f"| {loop} | {step} | {a:.0f} | {b:.0f} | {a / b:.2f} | {x:.0f} | {y:.0f} | {len(kept[0])} |")


if __name__ == "__main__":
    main()
