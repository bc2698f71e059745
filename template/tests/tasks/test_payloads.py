"""Payloads that JSON would change are refused when they are submitted, not by the worker after a 202."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr

from app.tasks import NewTask, PayloadError, Submitter, Task, TaskContext, task
from tests.support.inline import TaskRunner
from tests.support.records import submit_all


class Colour(Enum):
    """An enumeration."""

    RED = "red"


@dataclass
class Point:
    """A dataclass."""

    x: float
    y: float


class Everything(BaseModel):
    """What JSON carries there and back."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(alias="No")
    ratio: float
    price: Decimal
    day: date
    at: datetime
    wait: timedelta
    id: UUID
    colour: Colour
    path: Path
    data: bytes
    names: set[str]
    pair: tuple[int, str]
    point: Point | None
    by_day: dict[date, list[int]]
    free: dict[str, Any]


EVERYTHING = Everything(
    No=1,
    ratio=0.1,
    price=Decimal("1.10"),
    day=date(2026, 1, 2),
    at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    wait=timedelta(seconds=1.5),
    id=uuid4(),
    colour=Colour.RED,
    path=Path("/tmp/x"),
    data=b"text",
    names={"a", "b"},
    pair=(1, "x"),
    point=Point(1, 0.5),
    by_day={date(2026, 1, 2): [1, 2]},
    free={"list": [1, None, {"x": "y"}]},
)


class Login(BaseModel):
    """A payload with a secret."""

    user: str
    password: SecretStr


def taking(kind: Any) -> Task[Any, Any]:
    """Return a task that takes a payload of that type, and returns it."""

    async def take(_context: TaskContext, payload: Any) -> Any:
        return payload

    take.__annotations__ |= {"payload": kind, "return": kind}
    return task(name="test.take_payload")(take)


async def test_what_json_carries_there_and_back_is_accepted(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submit_all(submitter, taking(Everything), [EVERYTHING])
    [record] = await run_tasks()
    assert Everything.model_validate(record.result) == EVERYTHING


@pytest.mark.parametrize(
    ("kind", "payload", "what"),
    [
        (SecretStr, SecretStr("hunter2"), "it"),
        (Login, Login(user="ada", password=SecretStr("hunter2")), "password"),
        (dict[tuple[int, int], str], {(1, 2): "hunter2"}, "1,2"),
        (dict[str, Any], {"at": datetime(2026, 1, 2, tzinfo=UTC), "secret": "hunter2"}, "at"),
        (Annotated[int, PlainSerializer(lambda _: "hunter2", when_used="json")], 1, "it"),
    ],
)
def test_what_json_would_change_is_refused_with_its_place_and_without_its_value(
    kind: Any, payload: Any, what: str
) -> None:
    with pytest.raises(PayloadError) as refused:
        NewTask.of(taking(kind), payload)
    assert f"JSON does not keep {what} as it is" in str(refused.value)
    assert "hunter2" not in str(refused.value)
