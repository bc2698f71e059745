"""SQLite: how to connect, and the few expressions that each database spells in its own way."""

import json
import logging
import sqlite3
import time
from datetime import datetime
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Index,
    String,
    event,
    func,
    make_url,
    text,
    type_coerce,
)
from sqlalchemy.dialects.sqlite import insert as insert
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.database.base import UtcDateTime

PATIENCE_SECONDS = 15.0
OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""The codes of errors that speak of the file, and not of what was asked: https://www.sqlite.org/rescode.html."""
# As SQLAlchemy stores a datetime, to the microsecond, so that text compares as time does.
FORMAT = "%Y-%m-%d %H:%M:%f"

logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs every call


def url_with_driver(url: str) -> URL:
    """Return the URL with the driver this service uses, whatever driver it names.

    Raises ValueError if it is not the URL of an SQLite file.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise ValueError("use the URL of an SQLite file: sqlite:////absolute/path/to/data.db")
    if not parsed.database or parsed.database == ":memory:":
        raise ValueError("API and workers share a file, memory will not do: sqlite:////absolute/path/data.db")
    return parsed.set(drivername="sqlite+aiosqlite")


def connect(url: str, *, pool_size: int, patience: float | None = None) -> AsyncEngine:
    """Return an engine that opens at most `pool_size` connections, the first of them when it is needed.

    `patience` is for how many seconds it waits for the write lock; a cancellation does not shorten that.
    """
    engine = create_async_engine(
        url_with_driver(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=PATIENCE_SECONDS,
        json_serializer=_to_json,
        connect_args={"timeout": patience or PATIENCE_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def tells_outage(error: BaseException | None) -> bool:
    """Tell whether the driver's error says that the file could not be used now."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTAGES


def read_options() -> dict[str, Any]:
    """Return the engine options for connections that only read: they never ask for the write lock."""
    return {"only_reads": True}


def statement_options() -> dict[str, Any]:
    """Return the engine options for connections that execute one statement: here, the same as for all that write."""
    return {}


def now() -> ColumnElement[datetime]:
    """The database's time; CURRENT_TIMESTAMP would know whole seconds only."""
    return type_coerce(func.strftime(FORMAT, "now", type_=String()).concat("000"), UtcDateTime())


def plus(moment: ColumnElement[datetime], seconds: float) -> ColumnElement[datetime]:
    """The moment so many seconds later (earlier if negative)."""
    shifted = func.strftime(FORMAT, moment, f"{seconds:+.3f} seconds", type_=String())
    return type_coerce(shifted.concat("000"), UtcDateTime())


def seconds_between(start: ColumnElement[Any], end: ColumnElement[Any]) -> ColumnElement[Any]:
    """How many seconds lie between two moments."""
    return (func.julianday(end) - func.julianday(start)) * 86_400.0


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of only those rows that fulfil the condition."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where))


def _prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Let readers go on beside the one writer (WAL), and hold foreign keys to their word."""
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    _use_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_wal(cursor: DBAPICursor) -> None:
    """Switch to WAL. The first time it fails, without waiting, while another process does the same."""
    for left in reversed(range(100)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if not left:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that reads first and writes later fails in spite of waiting."""
    if not connection.get_execution_options().get("only_reads"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _to_json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
