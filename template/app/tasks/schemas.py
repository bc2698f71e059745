"""A task as the API shows it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.tasks.models import TaskStatus


class TaskError(BaseModel):
    """Why a task failed. What exactly happened is in the worker's log, under the task's id."""

    type: str = Field(examples=["timeout"], description="A word for programs: timeout, worker_lost, TaskFailed, ...")
    message: str = Field(examples=["The task ran longer than 60 s."], description="A sentence for people.")


class TaskProgress(BaseModel):
    """How far a running task says it is."""

    fraction: float = Field(ge=0, le=1, examples=[0.4])
    message: str = Field(default="", examples=["rendering"])


class TaskView(BaseModel):
    """A task: what it is, where it is, and what came of it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["invoices.send_invoice"])
    status: TaskStatus
    attempt: int = Field(description="How many attempts have begun.")
    max_attempts: int
    progress: TaskProgress | None = None
    result: Any = Field(default=None, description="What the task returned, once it is completed.")
    error: TaskError | None = Field(default=None, description="Why it failed, or why its last attempt did.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_at: datetime = Field(description="When it may run: at once, at the time asked for, or at its next attempt.")


class TaskAccepted(TaskView):
    """The answer to a submission: the task as it was recorded. Poll its Location until the status is final."""


class FailedTask(BaseModel):
    """What a task that is declared as another's `on_failure` is given: which one failed, and why."""

    id: UUID
    name: str
    payload: Any
    error: TaskError


class TaskPage(BaseModel):
    """A part of a list, newest first."""

    items: list[TaskView]
    next_cursor: str | None = Field(description="Pass it as cursor for the page that follows; null on the last one.")
