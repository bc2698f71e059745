"""/internal/schedules: for whatever drives the schedules from outside, with INTERNAL_TOKEN as its bearer token."""

import hmac
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, SecretStr

from app.errors import Problem
from app.security import bearer
from app.tasks.schedule import schedules
from app.tasks.scheduling import Scheduler

EARLY = timedelta(seconds=10)
"""A caller whose clock is ahead of the database's by so much gets the firing that it means."""


async def check_token(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Raise 401 unless the internal token is sent. Without one set, nobody has it."""
    token: SecretStr = request.app.state.internal_token
    expected = token.get_secret_value()
    given = credentials.credentials if credentials else ""
    # Digests: of equal length, so that the time of the comparison tells nothing.
    is_right = hmac.compare_digest(sha256(expected.encode()).digest(), sha256(given.encode()).digest())
    if not expected or not is_right:
        raise HTTPException(
            401, "Send the internal token: Authorization: Bearer <INTERNAL_TOKEN>", {"WWW-Authenticate": "Bearer"}
        )


router = APIRouter(
    prefix="/internal/schedules",
    tags=["internal"],
    dependencies=[Depends(check_token)],
    responses={401: {"model": Problem, "description": "The internal token is missing or wrong."}},
)


class Fired(BaseModel):
    """A firing that this call has submitted."""

    name: str
    fire_at: datetime
    task_id: UUID


class FiredSchedules(BaseModel):
    """The firings that this call has submitted; none if nothing was due, or another call was quicker."""

    fired: list[Fired]


@router.post("/run-due")
async def run_due(request: Request) -> FiredSchedules:
    """Submit whatever is due. It may be called at any time and by several: a firing happens once."""
    return await _fire(request, None)


@router.post("/{name}/run", responses={404: {"model": Problem, "description": "There is no such schedule."}})
async def run_if_due(name: str, request: Request) -> FiredSchedules:
    """Submit this schedule's task if it is due. Called again, for a call that seemed lost, it does nothing."""
    if schedules.get(name) is None:
        raise HTTPException(404, "There is no schedule with this name.")
    return await _fire(request, name)


async def _fire(request: Request, name: str | None) -> FiredSchedules:
    scheduler: Scheduler = request.app.state.scheduler
    firings = await (scheduler.fire_due() if name is None else scheduler.fire_due([name], early=EARLY))
    fired = [Fired(name=item.schedule.name, fire_at=item.fire_at, task_id=item.task_id) for item in firings]
    return FiredSchedules(fired=fired)
