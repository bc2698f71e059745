"""Telling a database that cannot be reached from a statement that is wrong."""

from socket import gaierror

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.database.dialect import tells_outage

UNAVAILABLE = (PoolTimeoutError, ConnectionError, TimeoutError, gaierror)
"""What is raised, beside the driver's errors, when a server is down, restarting or out of connections."""


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the same statement may succeed later; the outcome of a commit is then unknown.

    It is no outage when a value or a statement was refused: that would be refused again.
    """
    if isinstance(error, UNAVAILABLE):
        return True
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or isinstance(error.orig, UNAVAILABLE) or tells_outage(error.orig)
