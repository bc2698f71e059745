"""Logs of API and workers: one line an event, with the request's and the task's ids on every line."""

import logging
import re
import sys
from collections.abc import Collection
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from structlog.typing import EventDict, Processor, WrappedLogger

# Libraries that say at INFO what the service says itself, per task or per request.
QUIET = ("uvicorn.access", "httpx", "alembic")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


def is_request_id(value: str) -> bool:
    """Tell whether a client's X-Request-ID may go into records and logs as it is."""
    return REQUEST_ID.fullmatch(value) is not None


def configure_logging(level: str, log_format: str, quiet: Collection[str] = ()) -> None:
    """Send all logs, those of libraries too, to standard output.

    `level` is the least level shown; `log_format` is `console` for people or `json` for machines; of the `quiet`
    loggers, warnings and worse are shown.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_correlation_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):  # what a command line set up before
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers = []
            logger.propagate = True
    for name in (*QUIET, *quiet):
        logging.getLogger(name).setLevel(logging.WARNING)


def get_logger(name: str) -> Any:
    """Return a structured logger: `logger.info("report built", rows=12)`."""
    return structlog.stdlib.get_logger(name)


def _add_correlation_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "correlation_id" not in event and (request := correlation_id.get()):
        event["correlation_id"] = request
    return event
