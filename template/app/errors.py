"""Every error of the API as application/problem+json (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from app.database.failures import UNAVAILABLE, is_unavailable
from app.telemetry import get_logger

logger = get_logger(__name__)


class Problem(BaseModel):
    """An error as RFC 9457 lays it out."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str | None = Field(default=None, examples=["There is no task with this id."])
    errors: list[dict[str, Any]] | None = Field(default=None, description="What is wrong, field by field.")


class ProblemResponse(JSONResponse):
    """A response whose content type says that it is a problem."""

    media_type = "application/problem+json"


def problem(
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> ProblemResponse:
    """Return an error response; the title is the status code's phrase."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return ProblemResponse(body.model_dump(exclude_none=True), status, dict(headers or {}))


def install(app: FastAPI) -> None:
    """Make the application answer every error with a problem."""
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid)
    for kind in UNAVAILABLE:
        app.exception_handler(kind)(_unavailable)
    app.exception_handler(DBAPIError)(_database_error)
    app.exception_handler(Exception)(_unexpected)


async def _http_error(_request: Request, error: HTTPException) -> ProblemResponse:
    phrase = HTTPStatus(error.status_code).phrase
    detail = None if error.detail == phrase else str(error.detail)
    return problem(error.status_code, detail, headers=error.headers)


async def _invalid(_request: Request, error: RequestValidationError) -> ProblemResponse:
    # What was sent is not repeated: it may be a secret.
    errors = [
        {"location": [str(part) for part in item["loc"]], "message": item["msg"], "type": item["type"]}
        for item in error.errors()
    ]
    return problem(422, "The request does not fit: see errors.", errors=errors)


async def _unavailable(_request: Request, error: Exception) -> ProblemResponse:
    logger.error("something the request needs is down", error=type(error).__name__)
    return problem(
        503,
        "The database, or something else this needs, cannot be reached; try again soon.",
        headers={"Retry-After": "2"},
    )


async def _database_error(request: Request, error: DBAPIError) -> ProblemResponse:
    """Tell a server that is stopping or starting, for which drivers have no class of their own, from a mistake."""
    if is_unavailable(error):
        return await _unavailable(request, error)
    raise error


async def _unexpected(_request: Request, error: Exception) -> ProblemResponse:
    logger.error("unexpected error", exc_info=error)
    # The middleware that adds the id to other responses lies within the one that answers this.
    headers = {"X-Request-ID": request_id} if (request_id := correlation_id.get()) else None
    detail = "Something unexpected went wrong; the logs have it under this response's X-Request-ID."
    return problem(500, detail, headers=headers)
