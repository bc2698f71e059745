"""`tasks: Tasks` in a route: submitting in the name of the caller, and answering 202 as the client expects it."""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from asgi_correlation_id import correlation_id
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database.sessions import get_open_session
from app.errors import ProblemResponse, problem
from app.security import Caller
from app.tasks.backlog import Backlog, TooMuchPending
from app.tasks.new_task import IdempotencyKey, NewTask, PayloadError, hash_json
from app.tasks.outbox import is_uncommitted
from app.tasks.schemas import TaskAccepted
from app.tasks.submit import KeyReused, Replay, Submitter

if TYPE_CHECKING:
    from app.tasks.definition import Task

P = TypeVar("P")

TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
SESSIONS = "task_sessions"
KEY = "idempotency_key"
UNREADABLE = (ValueError, RecursionError)
"""What reading a body as JSON raises if it is none, or too deep."""


class UncommittedSubmission(RuntimeError):
    """A route answers although a task it submitted is not committed."""


class TaskSubmissions:
    """Submits tasks for one request."""

    def __init__(self, request: Request, response: Response, caller: str, key: IdempotencyKey | None) -> None:
        self._submitter: Submitter = request.app.state.submitter
        self._request = request
        self._response = response
        self._caller = caller
        self._key = key
        self._submitted = 0

    async def submit(
        self,
        task: "Task[P, Any]",
        payload: P,
        *,
        run_at: datetime | None = None,
        key: str | None = None,
        session: AsyncSession | None = None,
    ) -> TaskAccepted:
        """Record a task and have it run; the response gets its Location and Retry-After.

        With `session` the record is part of the caller's transaction, and its message is sent after that commit; a
        route that has a `Session` need not name it, since a second connection could wait for the first.
        `run_at` is the earliest time to run, with a time zone. `key` makes the same submission of this task by this
        caller count once; without it, the request's Idempotency-Key does. A route that submits several tasks does so
        in one transaction, by a session or by `submit_many`: a replay does not make up for what is missing. Raises
        PayloadError if JSON does not keep the payload; the API answers that with 422.
        """
        new = self._prepare(task, payload, run_at, key)
        session = session or get_open_session(self._request)
        if session is None:
            accepted = await self._submitter.submit(new)
        else:
            accepted = await self._submitter.submit_with(new, session)
            _sessions(self._request.scope).append(session)
        for name, value in _headers(self._request, accepted).items():
            self._response.headers.setdefault(name, value)  # of several, the first is what a replay answers with
        return accepted

    async def submit_many(
        self,
        task: "Task[P, Any]",
        payloads: Iterable[P],
        *,
        run_at: datetime | None = None,
        session: AsyncSession | None = None,
    ) -> list[TaskAccepted]:
        """Record many tasks in one transaction, all or none; otherwise as `submit`, but without a Location.

        A route that returns the list answers a replay with all of them.
        """
        group = [self._prepare(task, payload, run_at, None) for payload in payloads]
        session = session or get_open_session(self._request)
        if session is None:
            return await self._submitter.submit_many(group)
        accepted = await self._submitter.submit_many_with(group, session)
        _sessions(self._request.scope).append(session)
        return accepted

    def _prepare(self, task: "Task[P, Any]", payload: P, run_at: datetime | None, key: str | None) -> NewTask:
        return NewTask.of(
            task,
            payload,
            run_at=run_at,
            owner=self._caller,
            correlation_id=correlation_id.get(),
            traceparent=_traceparent(self._request),
            key=key or self._next_key(),
        )

    def _next_key(self) -> IdempotencyKey | None:
        """Return the request's key, numbered from the second submission on: a request may submit several tasks."""
        self._submitted += 1
        if self._key is None or self._submitted == 1:
            return self._key
        return self._key.numbered(self._submitted)


async def get_tasks(
    request: Request,
    response: Response,
    caller: Caller,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[!-~]{1,200}$",
            description="Any unique text. Sent again with the same body, the request is not carried out again: "
            "the answer is what it was accepted as, as that is now.",
        ),
    ] = None,
) -> TaskSubmissions:
    """Return what a route submits with, before the route writes anything.

    A known Idempotency-Key ends the request here: it is answered from the records, and the route does not run, for what
    else it does would be done twice. So does too much that waits, with 503.
    """
    key = None
    if idempotency_key is not None:
        scope = f"{request.method} {request.scope['route'].path}"
        key = IdempotencyKey(scope, idempotency_key, await _hash_request(request))
        request.scope.setdefault("state", {})[KEY] = (caller, key)
        submitter: Submitter = request.app.state.submitter
        async with submitter.database.read() as session:
            await submitter.check_key(session, caller, key)
    backlog: Backlog = request.app.state.backlog
    await backlog.check()  # here and not in submit: a route that holds a connection must not wait for a second one
    return TaskSubmissions(request, response, caller, key)


# scope="function", like the session: what it does is over before the response is sent.
Tasks = Annotated[TaskSubmissions, Depends(get_tasks, scope="function")]


class CommitGuard:
    """Refuses to tell a client that a task is accepted before it is committed.

    It happens when a session's dependency commits after the response, as FastAPI's do unless they are declared with
    `Depends(..., scope="function")`. Raises UncommittedSubmission, which the client sees as a 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_if_committed(message: Message) -> None:
            accepting = message["type"] == "http.response.start" and message["status"] < 400
            if accepting and any(is_uncommitted(session) for session in _sessions(scope)):
                raise UncommittedSubmission(
                    "a task was submitted with session=..., and that session is not committed yet: declare its "
                    'dependency with Depends(..., scope="function"), as app.database.Session is'
                )
            await send(message)

        await self._app(scope, receive, send_if_committed if scope["type"] == "http" else send)


def install(app: FastAPI) -> None:
    """Make the application answer what a submission may end with, and guard its commits."""
    app.exception_handler(Replay)(_replay)
    app.exception_handler(KeyReused)(_key_reused)
    app.exception_handler(TooMuchPending)(_too_much)
    app.exception_handler(PayloadError)(_unstorable)
    app.add_middleware(CommitGuard)


async def _replay(request: Request, error: Replay) -> JSONResponse:
    """Answer a request that was accepted before as its route did, if that returns what it submits.

    Of another answer nothing is recorded but the task: 202 and the first one stand for it.
    """
    route = request.scope["route"]
    status, kind = route.status_code or 200, route.response_model
    keyed = request.scope.get("state", {}).get(KEY)
    if kind == list[TaskAccepted] and keyed is not None:
        submitter: Submitter = request.app.state.submitter
        if tasks := await submitter.find_accepted(*keyed):
            return JSONResponse([accepted.model_dump(mode="json") for accepted in tasks], status)
    if kind is not TaskAccepted:
        status = 202
    return JSONResponse(error.accepted.model_dump(mode="json"), status, _headers(request, error.accepted))


async def _key_reused(_request: Request, error: KeyReused) -> ProblemResponse:
    return problem(422, str(error))


async def _unstorable(_request: Request, error: PayloadError) -> ProblemResponse:
    return problem(422, str(error))


async def _too_much(_request: Request, error: TooMuchPending) -> ProblemResponse:
    return problem(503, str(error), headers={"Retry-After": "10"})


def _headers(request: Request, accepted: TaskAccepted) -> dict[str, str]:
    location = f"{request.scope.get('root_path', '')}/tasks/{accepted.id}"
    return {"Location": location, "Retry-After": "1", "Cache-Control": "no-store"}


def _traceparent(request: Request) -> str | None:
    value = request.headers.get("traceparent", "")
    return value if TRACEPARENT.fullmatch(value) else None


async def _hash_request(request: Request) -> str:
    """Hash what was sent: as JSON if it is JSON, so that its layout does not matter, and with the URL's own values."""
    body = await request.body()
    place = [request.url.path, request.url.query]
    try:
        return hash_json([*place, json.loads(body)])
    except UNREADABLE:
        return hash_json([*place, body.decode("latin-1")])


def _sessions(scope: Scope) -> list[AsyncSession]:
    sessions: list[AsyncSession] = scope.setdefault("state", {}).setdefault(SESSIONS, [])
    return sessions
