"""/schedules: when each fires, what came of its last firing, and having it run by hand."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, Field
from sqlalchemy import select

from app.database import ReadSession
from app.errors import Problem
from app.tasks.dependency import Tasks
from app.tasks.models import TaskRecord, TaskStatus
from app.tasks.schedule import Schedule, schedules
from app.tasks.scheduling import OWNER, SCOPE, firing_key, is_firing, read_last
from app.tasks.schemas import TaskAccepted

router = APIRouter(prefix="/schedules", tags=["schedules"])


class LastTask(BaseModel):
    """The task of the last firing."""

    id: UUID
    status: TaskStatus


class ScheduleView(BaseModel):
    """A schedule: when it fires, and what came of its last firing."""

    name: str = Field(examples=["clean-up"])
    task: str = Field(examples=["invoices.clean_up"], description="The name of the task it submits.")
    when: str = Field(examples=["*/30 * * * *"], description="Cron text, or an interval such as: every 90 s.")
    time_zone: str = Field(examples=["Europe/Berlin"])
    enabled: bool
    next_fire_at: datetime | None = Field(description="Null while it is not enabled.")
    last_fire_at: datetime | None = Field(description="Null until it has fired.")
    last_task: LastTask | None = Field(description="Null once its record has been deleted.")


class ScheduleList(BaseModel):
    """All schedules, by name."""

    items: list[ScheduleView]


@router.get("")
async def list_schedules(session: ReadSession, response: Response) -> ScheduleList:
    """List the schedules. Runs by hand do not count as firings."""
    moment, last = await read_last(session)
    keys = [firing_key(name, fire_at) for name, fire_at in last.items()]
    mine = (TaskRecord.owner == OWNER, TaskRecord.scope == SCOPE, TaskRecord.idempotency_key.in_(keys))
    found = await session.execute(select(TaskRecord.idempotency_key, TaskRecord.id, TaskRecord.status).where(*mine))
    tasks = {row.idempotency_key: LastTask(id=row.id, status=row.status) for row in found}
    response.headers["Cache-Control"] = "private, no-cache"
    return ScheduleList(items=[_view(schedule, moment, last.get(schedule.name), tasks) for schedule in schedules])


@router.post(
    "/{name}/run", status_code=202, responses={404: {"model": Problem, "description": "There is no such schedule."}}
)
async def run_schedule(name: str, tasks: Tasks) -> TaskAccepted:
    """Have a schedule's task run now, as a task of yours. When the schedule fires next does not change."""
    schedule = schedules.get(name)
    if schedule is None:
        raise HTTPException(404, "There is no schedule with this name.")
    return await tasks.submit(schedule.task, schedule.payload)


def _view(
    schedule: Schedule[Any], moment: datetime, last: datetime | None, tasks: dict[str | None, LastTask]
) -> ScheduleView:
    has_fired = last is not None and is_firing(last)
    return ScheduleView(
        name=schedule.name,
        task=schedule.task.name,
        when=schedule.times,
        time_zone=schedule.time_zone,
        enabled=schedule.enabled,
        next_fire_at=schedule.timetable.next(max(moment, last or moment)) if schedule.enabled else None,
        last_fire_at=last if has_fired else None,
        last_task=tasks.get(firing_key(schedule.name, last)) if last is not None else None,
    )
