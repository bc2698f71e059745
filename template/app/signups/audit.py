"""Best effort, after the response: an audit line by FastAPI's BackgroundTasks.

BackgroundTasks are lost when the process ends, and nobody can ask for their state. Use them for what may be lost; use
a task for what may not.
"""

from typing import Annotated

from asgi_correlation_id import correlation_id
from fastapi import BackgroundTasks, Depends

from app.database import Database, now
from app.database.sessions import get_database
from app.signups.models import AuditLine
from app.telemetry import get_logger

logger = get_logger(__name__)


class AuditTrail:
    """Writes lines once the response is sent."""

    def __init__(self, background: BackgroundTasks, database: Annotated[Database, Depends(get_database)]) -> None:
        self._background = background
        self._database = database

    def add(self, event: str, subject: str) -> None:
        """Have a line written after the response."""
        self._background.add_task(write_line, self._database, event, subject, correlation_id.get())


async def write_line(database: Database, event: str, subject: str, request_id: str | None) -> None:
    """Write a line in a session of its own, since the request's is closed by then. A failure is logged."""
    try:
        async with database.session() as session, session.begin():
            session.add(AuditLine(event=event, subject=subject, correlation_id=request_id, created_at=now()))
    except Exception:
        logger.exception("audit line lost", audit_event=event, correlation_id=request_id)


Audit = Annotated[AuditTrail, Depends()]
