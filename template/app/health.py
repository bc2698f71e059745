"""/health: whether this process lives, and whether it can accept work."""

import asyncio
from functools import lru_cache
from pathlib import Path
from typing import Literal

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import Connection

from app.database import Database
from app.queues.base import TaskQueue
from app.tasks import registry
from app.telemetry import get_logger

logger = get_logger(__name__)
router = APIRouter(prefix="/health", tags=["health"])

TIMEOUT_SECONDS = 2.0
ALEMBIC_INI = Path(__file__).parent.parent / "alembic.ini"
EXAMPLES = "examples_"
"""How the names of their revisions begin."""


class Health(BaseModel):
    """What works. `degraded` still accepts tasks; they run once the broker is back."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str]


@router.get("/live")
async def live() -> Health:
    """Tell that the process answers; restart it if it does not."""
    return Health(status="ok", checks={})


@router.get("/ready", responses={503: {"model": Health, "description": "No tasks can be accepted."}})
async def ready(request: Request, response: Response) -> Health:
    """Tell whether tasks can be accepted, and name what is down."""
    checks = {
        "database": await _check_database(request.app.state.database),
        "broker": await _check_broker(request.app.state.queue),
    }
    response.headers["Cache-Control"] = "no-store"
    if checks["database"] != "ok":
        response.status_code = 503
        return Health(status="unavailable", checks=checks)
    return Health(status="ok" if checks["broker"] == "ok" else "degraded", checks=checks)


async def _check_database(database: Database) -> str:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), database.engine.connect() as connection:
            applied = await connection.run_sync(_applied_revisions)
    except Exception as error:
        logger.warning("database is down", error=type(error).__name__)
        return "down"
    return "migrations are missing: run `alembic upgrade heads`" if _is_behind(applied) else "ok"


async def _check_broker(queue: TaskQueue) -> str:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            for name in sorted({task.queue for task in registry} | {"default"}):
                await queue.depth(name)
    except Exception as error:
        logger.warning("broker is down", error=type(error).__name__)
        return "down: tasks are accepted and wait"
    return "ok"


def _applied_revisions(connection: Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _is_behind(applied: tuple[str, ...]) -> bool:
    """Tell whether revisions of this code are missing.

    A database that is ahead, in a rolling deployment, is fine; so is one that keeps the tables of left-out examples.
    """
    scripts = _scripts()
    known = {script.revision for script in scripts.walk_revisions()}
    if not any(revision.startswith(EXAMPLES) for revision in known):
        applied = tuple(revision for revision in applied if not revision.startswith(EXAMPLES))
    if not known.issuperset(applied):
        return False
    current = {script.revision for script in scripts.get_all_current(applied)}
    return not current.issuperset(scripts.get_heads())


@lru_cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(ALEMBIC_INI))
