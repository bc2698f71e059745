"""Submitting: what is accepted is recorded first, sent after that, and never lost by a broker that is down."""

import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter
from httpx import AsyncClient

from app.database import Database, now, plus
from app.queues.base import Message
from app.settings import Settings
from app.tasks import NewTask, PayloadError, Submitter, TaskAccepted, TaskContext, Tasks, task
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import change, count, read, read_all, seconds_until_run
from tests.support.sample_tasks import add, parent, refuse, wait
from tests.support.serving import serving

router = APIRouter(prefix="/sample")


@router.post("", status_code=202)
async def submit_add(numbers: list[int], tasks: Tasks) -> TaskAccepted:
    """Submit a task in a transaction of its own."""
    return await tasks.submit(add, numbers)


@router.post("/text", status_code=202)
async def submit_text(body: dict[str, str], tasks: Tasks) -> TaskAccepted:
    """Submit a task with a text."""
    return await tasks.submit(refuse, body["text"])


@router.post("/later", status_code=202)
async def submit_later(run_at: datetime, tasks: Tasks) -> TaskAccepted:
    """Submit a task for later."""
    return await tasks.submit(add, [1], run_at=run_at)


class LookingQueue(InlineQueue):
    """A queue that notes what the database holds at the moment of sending."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._database = database

    async def send(self, messages: Sequence[Message]) -> None:
        """Look, then keep the messages."""
        for message in messages:
            self.seen += [(await read(self._database, task_id)).status for task_id in message.ids]
        await super().send(messages)


@pytest.fixture
async def sample_client(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of the API with the routes of this file."""
    async with serving(settings, queue, router) as client:
        yield client


async def test_a_submission_is_committed_before_its_message_is_sent(settings: Settings, database: Database) -> None:
    queue = LookingQueue(database)
    async with serving(settings, queue, router) as client:
        response = await client.post("/sample", json=[1, 2])
    assert queue.seen == ["pending"]
    assert [str(task_id) for task_id in queue.sent] == [response.json()["id"]]


async def test_the_answer_says_where_and_when_to_ask(
    sample_client: AsyncClient, database: Database, queue: InlineQueue
) -> None:
    response = await sample_client.post("/sample", json=[1, 2])
    body = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/tasks/{body['id']}"
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Cache-Control"] == "no-store"
    assert (body["name"], body["status"], body["attempt"], body["max_attempts"]) == ("sample.add", "pending", 0, 3)
    assert (await sample_client.get(response.headers["Location"])).json() == body
    record = await read(database, body["id"])
    assert (record.payload, record.queue, record.sent_via) == ([1, 2], "default", "inline")


async def test_ids_sort_by_the_order_of_submission(submitter: Submitter, database: Database) -> None:
    accepted = [await submitter.submit(NewTask.of(add, [number])) for number in range(20)]
    assert [item.id for item in accepted] == sorted(item.id for item in accepted)
    assert {item.id.version for item in accepted} == {7}
    assert [record.payload for record in await read_all(database)] == [[number] for number in range(20)]


async def test_the_request_id_is_in_the_record(sample_client: AsyncClient, database: Database) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"X-Request-ID": "order-77", "traceparent": trace}
    body = (await sample_client.post("/sample", json=[1], headers=headers)).json()
    record = await read(database, body["id"])
    assert (record.correlation_id, record.traceparent) == ("order-77", trace)


async def test_a_malformed_traceparent_is_not_recorded(sample_client: AsyncClient, database: Database) -> None:
    body = (await sample_client.post("/sample", json=[1], headers={"traceparent": "00-secret"})).json()
    assert (await read(database, body["id"])).traceparent is None


async def test_a_task_for_later_is_sent_and_run_only_when_it_is_due(
    sample_client: AsyncClient, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=2)
    body = (await sample_client.post("/sample/later", params={"run_at": run_at.isoformat()})).json()
    assert datetime.fromisoformat(body["run_at"]) == run_at
    record = await read(database, body["id"])
    assert 7100 < await seconds_until_run(database, record.id) <= 7200

    await run_tasks.worker.recovery.tick()
    assert queue.messages == []
    queue.messages.append(Message("default", (record.id,), record.created_at))  # somebody sends it all the same
    await run_tasks.deliver()
    assert (await read(database, record.id)).status == "pending"

    await change(database, record.id, run_at=plus(now(), -1))
    await run_tasks.worker.recovery.tick()
    assert queue.sent == [record.id]
    await run_tasks.deliver()
    assert (await read(database, record.id)).status == "completed"


def test_a_time_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no time zone: use datetime\.now"):
        NewTask.of(add, [1], run_at=datetime(2030, 1, 1))  # noqa: DTZ001


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("kind", "payload", "problem"),
    [
        (float, math.nan, "not JSON compliant"),
        (float, math.inf, "not JSON compliant"),
        (dict[str, list[float]], {"deep": [1, -math.inf]}, "not JSON compliant"),
        (Any, math.nan, "not JSON compliant"),
        (dict[str, Any], {"none": None, "deep": [(1, None, -math.inf)]}, "not JSON compliant"),
        (str, "before\0after", "NUL"),
        (str, "a backslash \\ and \\\0", "NUL"),
        (Any, {"\0": 1}, "NUL"),
        (str, "half \ud83d", "surrogate"),
        (Any, object(), "object"),
        (bytes, b"\xff\xfe", "utf-8"),
        (Any, CYCLE, "[Cc]ircular"),
    ],
)
def test_a_payload_that_cannot_be_stored_is_refused_with_the_reason(kind: Any, payload: Any, problem: str) -> None:
    async def take(_context: TaskContext, payload: Any) -> None: ...

    take.__annotations__["payload"] = kind
    taker = task(name="test.take")(take)
    with pytest.raises(PayloadError, match=f"the payload of test.take cannot be stored: .*{problem}"):
        NewTask.of(taker, payload)


async def test_a_client_that_sends_what_cannot_be_stored_is_told_so(
    sample_client: AsyncClient, database: Database
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await sample_client.post("/sample/text", content=r'{"text": "nul \u0000"}', headers=headers)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "NUL" in response.json()["detail"]
    assert await count(database) == 0


async def test_a_payload_that_says_backslash_u0000_is_no_nul(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submitter.submit(NewTask.of(refuse, r"C:\u0000 and \\u0000"))
    [record] = await run_tasks()
    assert record.payload == record.error["message"] == r"C:\u0000 and \\u0000"


async def test_a_payload_comes_back_as_it_was_sent(submitter: Submitter, run_tasks: TaskRunner) -> None:
    @task(name="test.echo")
    async def echo(_context: TaskContext, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    payload = {"text": 'ünïcode 😀 "quoted" \\ \n\t\x7f', "big": 2**80, "float": 0.1, "none": None, "list": [[], {}]}
    await submitter.submit(NewTask.of(echo, payload))
    [record] = await run_tasks()
    assert record.result == payload


async def test_while_the_broker_is_down_tasks_are_accepted_and_run_when_it_is_back(
    sample_client: AsyncClient, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    queue.broken = True
    response = await sample_client.post("/sample", json=[4, 5])
    assert response.status_code == 202
    assert (await read(database, response.json()["id"])).sent_at is None  # a message is owed
    await run_tasks.worker.recovery.tick()
    assert queue.sent == []

    queue.broken = False
    await run_tasks.worker.recovery.tick()
    assert [str(task_id) for task_id in queue.sent] == [response.json()["id"]]
    await run_tasks.deliver()
    assert (await read(database, response.json()["id"])).result == 9


async def test_a_child_is_submitted_when_its_parent_completes(
    submitter: Submitter, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    accepted = await submitter.submit(NewTask.of(parent, 0, correlation_id="order-7"))
    await run_tasks.deliver()
    await submitter.close()
    record, child = await read_all(database)
    assert (record.id, record.result) == (accepted.id, str(child.id))
    assert (child.name, child.status, child.correlation_id) == ("sample.add", "pending", "order-7")
    await run_tasks()
    assert (await read(database, child.id)).result == 1


async def test_a_parent_that_fails_has_no_child_and_a_retry_does_not_double_it(
    submitter: Submitter, database: Database, run_tasks: TaskRunner
) -> None:
    await submitter.submit(NewTask.of(parent, 1))
    await run_tasks.deliver()
    assert await count(database) == 1
    record, child = await run_tasks()
    assert (record.status, record.attempt) == ("completed", 2)
    assert (child.payload, child.result) == ([2], 2)


async def test_a_child_for_later_waits_for_its_time(
    submitter: Submitter, database: Database, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    @task(name="test.postpone")
    async def postpone(context: TaskContext, _payload: None) -> None:
        await context.submit(wait, 0, run_at=datetime.now(UTC) + timedelta(hours=1))

    await submitter.submit(NewTask.of(postpone, None))
    await run_tasks.deliver()
    _, child = await read_all(database)
    assert queue.sent == []
    assert await seconds_until_run(database, child.id) > 3500
