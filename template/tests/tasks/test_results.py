"""Results and errors: what a record can hold, and how a task ends whose result it cannot."""

import re
from typing import Any

import pytest
from pydantic import BaseModel, computed_field

from app.database import Database
from app.tasks import NewTask, Submitter, TaskContext, TaskFailed, task
from tests.support.inline import TaskRunner
from tests.support.records import change, submit_all
from tests.support.sample_tasks import AT_ONCE, add

SECRET = "hunter2"


@pytest.mark.parametrize("text", ["nul \0 nul", "half \ud83d", "x" * 100_000])
async def test_any_message_of_a_failure_can_be_stored(text: str, submitter: Submitter, run_tasks: TaskRunner) -> None:
    @task(name="test.speak")
    async def speak(_context: TaskContext, _payload: None) -> None:
        raise TaskFailed(text)

    await submitter.submit(NewTask.of(speak, None))
    [record] = await run_tasks()
    assert record.status == "failed"
    assert record.error["message"][:3] == text[:3]
    assert len(record.error["message"]) <= 1000


class Report(BaseModel):
    """A result that cannot be computed."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float:
        """Raise."""
        raise KeyError(SECRET)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ("text", "does not fit its type"),
        (float("nan"), "not JSON compliant"),
        ([{"deep": float("inf")}], "not JSON [c]ompliant"),
        ("\0", "NUL"),
        ("half \ud83d", "surrogate"),
        (object(), "object"),
        (CYCLE, "[Cc]ircular"),
    ],
)
async def test_a_result_that_cannot_be_stored_fails_the_task_with_the_reason(
    result: Any, problem: str, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    kind = {"does not fit its type": int, "not JSON compliant": float}.get(problem, Any)

    async def give(_context: TaskContext, _payload: None) -> Any:
        return result

    give.__annotations__["return"] = kind
    await submitter.submit(NewTask.of(task(name="test.give")(give), None))
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.error["type"]) == ("failed", 1, "unstorable_result")
    assert re.search(problem, record.error["message"])


async def test_a_result_that_raises_while_it_is_stored_fails_the_attempt(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.report", max_attempts=2, retry=AT_ONCE)
    async def report(_context: TaskContext, _payload: None) -> Report:
        return Report()

    await submitter.submit(NewTask.of(report, None))
    [record] = await run_tasks()
    assert record.status == "failed"
    assert SECRET not in str(record.error)


async def test_a_payload_of_an_older_version_of_the_task_fails_it_at_once(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    [task_id] = await submit_all(submitter, add, [[1]])
    await change(database, task_id, payload={"numbers": [1]})
    [record] = await run_tasks()
    assert (record.status, record.attempt, record.error["type"]) == ("failed", 1, "payload_mismatch")
