"""Logs: one line an event, readable by machines, with the request's and the task's ids."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from asgi_correlation_id import correlation_id

from app.telemetry import configure_logging, get_logger, is_request_id


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give the process its logging back at the end, and the test no ids."""
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    request_id = correlation_id.set(None)
    yield
    correlation_id.reset(request_id)
    structlog.contextvars.clear_contextvars()
    root.handlers, root.level = handlers, level
    structlog.configure(**config)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged, each line read as JSON."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    get_logger("app.orders").info("order packed", rows=12, title='two\nlines and "quotes"')
    [line] = lines(capsys)
    assert (line["event"], line["rows"], line["title"]) == ("order packed", 12, 'two\nlines and "quotes"')
    assert (line["level"], line["logger"]) == ("info", "app.orders")
    assert line["timestamp"].endswith("Z")


def test_a_librarys_lines_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("some.library").warning("disk %s full", "almost")
    [line] = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == ("disk almost full", "warning", "some.library")


def test_every_line_has_the_ids_of_the_request_and_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    correlation_id.set("order-7")
    structlog.contextvars.bind_contextvars(task="orders.pack", task_id="0198", attempt=2)
    get_logger("app.orders").info("order packed")
    logging.getLogger("some.library").warning("disk full")
    for line in lines(capsys):
        assert (line["correlation_id"], line["task_id"], line["attempt"]) == ("order-7", "0198", 2)


def test_without_a_request_there_is_no_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    get_logger("app").info("started")
    [line] = lines(capsys)
    assert "correlation_id" not in line


@pytest.mark.parametrize("name", ["own", "library"])
def test_an_exception_stays_on_its_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    try:
        raise ValueError("what went wrong")
    except ValueError:
        (get_logger("app") if name == "own" else logging.getLogger("library")).exception("failed")
    [line] = lines(capsys)
    assert (line["event"], line["level"]) == ("failed", "error")
    assert "ValueError: what went wrong" in line["exception"]
    assert "Traceback" in line["exception"]


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "json")
    get_logger("app").info("noise")
    logging.getLogger("library").info("noise")
    get_logger("app").warning("news")
    assert [line["event"] for line in lines(capsys)] == ["news"]


def test_what_cannot_be_json_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    get_logger("app").info("odd", value={1, 2}, raw=b"\xff")
    [line] = lines(capsys)
    assert line["value"] == "{1, 2}"


def test_for_people_there_is_a_format_without_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console")
    correlation_id.set("order-7")
    get_logger("app").info("order packed", rows=12)
    out = capsys.readouterr().out
    assert "order packed" in out
    assert "rows=12" in out
    assert "order-7" in out
    assert "{" not in out


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("0198f3c2-7e7e-7abc-8def-0123456789ab", True),
        ("order:77/x=1+2", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("two words", False),
        ("line\nbreak", False),
        ("trailing\n", False),
        ('{"json": 1}', False),
        ("ünïcode", False),
    ],
)
def test_only_a_plain_id_of_a_client_is_taken_over(value: str, is_one: bool) -> None:
    assert is_request_id(value) is is_one
