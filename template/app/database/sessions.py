"""Engine and sessions of one process, and the dependencies that hand a session to a route."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from starlette.requests import HTTPConnection

from app.database.dialect import connect, read_options, statement_options

OPEN = "open_session"
Connection = AsyncConnection | AsyncSession
"""Where a statement can be executed: in a transaction, or in a session's."""


class Database:
    """The connections of one process; open one at its start, close it at its end.

    `url` is DATABASE_URL in any of its forms; `pool_size` bounds how many connections are opened; `patience` is for how
    many seconds one is waited for. Nothing connects before the first statement.
    """

    def __init__(self, url: str, *, pool_size: int, patience: float | None = None) -> None:
        self.engine = connect(url, pool_size=pool_size, patience=patience)
        readers = self.engine.execution_options(**read_options())
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._readers = async_sessionmaker(readers, expire_on_commit=False)
        self._single = self.engine.execution_options(**statement_options())

    def session(self) -> AsyncSession:
        """Return a new session; its transaction starts at the first statement."""
        return self._sessions()

    def read(self) -> AsyncSession:
        """Return a new session for reading only: no transaction, no locks."""
        return self._readers()

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a transaction as a block: committed at its end, rolled back on an error."""
        return self.engine.begin()

    def begin_one(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return what `begin` does, for exactly one statement.

        On a server that takes one trip, and leaves no lock behind, whatever becomes of this process meanwhile.
        """
        return self._single.begin()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def get_database(connection: HTTPConnection) -> Database:
    """Return the database that the application opened at its start."""
    database: Database = connection.app.state.database
    return database


def get_open_session(connection: HTTPConnection) -> AsyncSession | None:
    """Return the Session that the request's route has been given, unless its transaction has ended."""
    session: AsyncSession | None = connection.scope.get("state", {}).get(OPEN)
    return session if session is not None and session.in_transaction() else None


async def _write(
    connection: HTTPConnection, database: Annotated[Database, Depends(get_database)]
) -> AsyncIterator[AsyncSession]:
    async with database.session() as session, session.begin():
        connection.scope.setdefault("state", {})[OPEN] = session
        yield session


async def _read(database: Annotated[Database, Depends(get_database)]) -> AsyncIterator[AsyncSession]:
    async with database.read() as session:
        yield session


# scope="function": the commit happens before the response is sent. With FastAPI's default it would come after, and a
# client could hold a 202 for something that was never stored.
Session = Annotated[AsyncSession, Depends(_write, scope="function")]
"""A session that is committed when the route returns, and rolled back when it raises."""

ReadSession = Annotated[AsyncSession, Depends(_read, scope="function")]
"""A session for routes that only read."""
