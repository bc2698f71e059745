"""/tasks: following what was submitted, stopping it, and having it run again."""

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from sqlalchemy import literal_column, select

from app.database import Database, ReadSession
from app.errors import Problem
from app.security import Caller
from app.tasks import store
from app.tasks.models import TaskRecord, TaskStatus
from app.tasks.schemas import TaskPage, TaskView
from app.tasks.submit import Submitter
from app.tasks.watcher import State, Watcher

router = APIRouter(prefix="/tasks", tags=["tasks"])

LONGEST_WAIT_SECONDS = 30
WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")

NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no such task, or it is not yours."}
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "The task's status does not allow it."}
}


@router.get(
    "/{task_id}",
    responses=NOT_FOUND | {304: {"description": "It is as it was, by If-None-Match."}},
    response_model=TaskView,
)
async def read_task(
    task_id: UUID,
    request: Request,
    caller: Caller,
    if_none_match: Annotated[str | None, Header(description="An ETag from before: 304 if nothing has changed.")] = None,
    prefer: Annotated[str | None, Header(description="wait=20: answer when it is finished, or after 20 s.")] = None,
) -> Response:
    """Tell where a task is. Until its status is final, ask again after the seconds in Retry-After.

    With `Prefer: wait=20` the answer comes when the task is finished (with If-None-Match: when it has changed), but
    after 20 s at the latest; 30 s is the longest wait.
    """
    database: Database = request.app.state.database
    record = await _find(database, task_id, caller)
    headers = {}
    wait = WAIT.search(prefer or "")
    if wait is not None:
        seconds = min(int(wait[1]), LONGEST_WAIT_SECONDS)
        headers["Preference-Applied"] = f"wait={seconds}"

        def is_news(state: State) -> bool:
            return state[0].is_final if if_none_match is None else not _matches(if_none_match, state[1])

        if not is_news((TaskStatus(record.status), record.version)):
            watcher: Watcher = request.app.state.watcher
            await watcher.wait(task_id, is_news, seconds)
            record = await _find(database, task_id, caller)
    headers |= {"ETag": f'"{record.version}"', "Cache-Control": "private, no-cache", "Vary": "Authorization, Prefer"}
    if not TaskStatus(record.status).is_final:
        headers["Retry-After"] = "1"
    if if_none_match is not None and _matches(if_none_match, record.version):
        return Response(status_code=304, headers=headers)
    return Response(TaskView.model_validate(record).model_dump_json(), headers=headers, media_type="application/json")


@router.get("")
async def list_tasks(
    session: ReadSession,
    caller: Caller,
    response: Response,
    status: TaskStatus | None = None,
    name: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", examples=["invoices.send_invoice"])
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[UUID | None, Query(description="next_cursor of the page before")] = None,
) -> TaskPage:
    """List your tasks, newest first."""
    query = select(TaskRecord).where(TaskRecord.owner == caller).order_by(TaskRecord.id.desc()).limit(limit + 1)
    if status is not None:
        # A literal, so that the index over tasks that are not completed can be used.
        query = query.where(TaskRecord.status == literal_column(f"'{status.value}'"))
    if name is not None:
        query = query.where(TaskRecord.name == name)
    if cursor is not None:
        query = query.where(TaskRecord.id < cursor)
    records = list(await session.scalars(query))
    response.headers["Cache-Control"] = "private, no-cache"
    items = [TaskView.model_validate(record) for record in records[:limit]]
    return TaskPage(items=items, next_cursor=str(items[-1].id) if len(records) > limit else None)


@router.post("/{task_id}/cancel", status_code=202, responses=NOT_FOUND | CONFLICT)
async def cancel_task(task_id: UUID, request: Request, caller: Caller) -> TaskView:
    """Cancel a task: one that waits at once, one that runs by asking it to stop; it may still complete."""
    database: Database = request.app.state.database
    async with database.begin_one() as connection:
        changed = await store.request_cancel(connection, task_id, caller)
    record = await _find(database, task_id, caller)
    if not changed:
        raise HTTPException(409, f"The task is {record.status}: only one that is pending or running can be cancelled.")
    return TaskView.model_validate(record)


@router.post("/{task_id}/retry", status_code=202, responses=NOT_FOUND | CONFLICT)
async def retry_task(task_id: UUID, request: Request, response: Response, caller: Caller) -> TaskView:
    """Have a failed or cancelled task run again, with all its attempts."""
    submitter: Submitter = request.app.state.submitter
    async with submitter.database.begin_one() as connection:
        changed = await store.run_again(connection, task_id, caller)
    if changed:
        await submitter.resend([task_id])
    record = await _find(submitter.database, task_id, caller)
    if not changed:
        raise HTTPException(409, f"The task is {record.status}: only one that failed or was cancelled can run again.")
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/tasks/{task_id}"
    response.headers["Retry-After"] = "1"
    return TaskView.model_validate(record)


async def _find(database: Database, task_id: UUID, owner: str) -> TaskRecord:
    """Return the task. Raises 404 if there is none, or if it is somebody else's: that it exists is theirs to know."""
    async with database.read() as session:
        record = await session.get(TaskRecord, task_id)
    if record is None or record.owner != owner:
        raise HTTPException(404, "There is no task with this id.")
    return record


def _matches(if_none_match: str, version: int) -> bool:
    """Compare ETags as RFC 9110, section 13.1.2, says."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{version}"' in tags
