"""The database: everything the rest of the service needs of it, whichever server runs it."""

from app.database.base import Base, UtcDateTime, new_id
from app.database.dialect import (
    connect,
    insert,
    now,
    partial_index,
    plus,
    seconds_between,
    url_with_driver,
)
from app.database.failures import is_unavailable
from app.database.sessions import Connection, Database, ReadSession, Session

__all__ = [
    "Base",
    "Connection",
    "Database",
    "ReadSession",
    "Session",
    "UtcDateTime",
    "connect",
    "insert",
    "is_unavailable",
    "new_id",
    "now",
    "partial_index",
    "plus",
    "seconds_between",
    "url_with_driver",
]
