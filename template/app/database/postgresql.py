"""PostgreSQL: how to connect, and the few expressions that each database spells in its own way."""

import json
from datetime import datetime, timedelta
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import URL, ColumnElement, Index, Interval, extract, func, literal, make_url, text
from sqlalchemy.dialects.postgresql import insert as insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database.base import UtcDateTime

# A worker that dies without closing its connection must not block others with the row locks it held: the server
# notices within about half a minute and rolls back.
SERVER_SETTINGS = {
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "60000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
PATIENCE_SECONDS = 5.0
OUTAGES = ("08", "40", "53", "55P03", "57", "58", "25P03")
"""What the codes of errors begin with that speak of the server, and not of what it was asked:
https://www.postgresql.org/docs/current/errcodes-appendix.html. Most of these have no class of their own in SQLAlchemy.
"""


def url_with_driver(url: str) -> URL:
    """Return the URL with the driver this service uses, whatever driver or alias (`postgres://`) it names.

    Raises ValueError if it is not the URL of a PostgreSQL database.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError("use a PostgreSQL URL: postgresql://user:password@host:5432/name")
    if not parsed.database:
        raise ValueError("the URL names no database: postgresql://user:password@host:5432/name")
    return parsed.set(drivername="postgresql+asyncpg")


def connect(url: str, *, pool_size: int, patience: float | None = None) -> AsyncEngine:
    """Return an engine that opens at most `pool_size` connections, the first of them when it is needed.

    `patience` is for how many seconds it waits to be connected, and how long the server waits for the next statement of
    a transaction before it rolls that back.
    """
    idle = {} if patience is None else {"idle_in_transaction_session_timeout": str(int(patience * 1000))}
    return create_async_engine(
        url_with_driver(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        json_serializer=_to_json,
        connect_args={
            "async_creator_fn": _open,
            "timeout": patience or PATIENCE_SECONDS,
            "server_settings": SERVER_SETTINGS | idle,
        },
    )


def tells_outage(error: BaseException | None) -> bool:
    """Tell whether the driver's error says that the server could not do it now."""
    return str(getattr(error, "sqlstate", None)).startswith(OUTAGES)


def read_options() -> dict[str, Any]:
    """Return the engine options for connections that only read: no transaction, so no BEGIN and ROLLBACK."""
    return {"isolation_level": "AUTOCOMMIT"}


def statement_options() -> dict[str, Any]:
    """Return the engine options for connections that execute one statement: it needs no BEGIN and COMMIT around it."""
    return {"isolation_level": "AUTOCOMMIT"}


def now() -> ColumnElement[datetime]:
    """The database's time at the start of the statement.

    `now()` would be the start of the transaction, and `clock_timestamp()` keeps indexes from being used.
    """
    return func.statement_timestamp(type_=UtcDateTime())


def plus(moment: ColumnElement[datetime], seconds: float) -> ColumnElement[datetime]:
    """The moment so many seconds later (earlier if negative)."""
    return moment + literal(timedelta(seconds=seconds), Interval())


def seconds_between(start: ColumnElement[Any], end: ColumnElement[Any]) -> ColumnElement[Any]:
    """How many seconds lie between two moments."""
    return extract("epoch", end - start)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of only those rows that fulfil the condition."""
    return Index(name, *columns, unique=unique, postgresql_where=text(where))


async def _open(*args: Any, **options: Any) -> Any:
    """Connect. A server that cannot be reached is an error of the database's, and not just any OSError."""
    try:
        return await asyncpg.connect(*args, **options)
    except OSError as error:
        raise asyncpg.PostgresConnectionError(f"no connection: {error}") from error


def _to_json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
