"""on_failure: the task that follows one that failed for good, once, in the transaction that fails it."""

from typing import Any
from uuid import UUID

import pytest
from httpx import AsyncClient
from sqlalchemy.exc import OperationalError

from app.database import Connection, Database
from app.tasks import FailedTask, NewTask, Submitter, Task, TaskContext, TaskFailed, store, task
from app.tasks.settlement import Failed, Settler
from tests.support.inline import InlineQueue, TaskRunner, trust_database
from tests.support.records import LONG_AGO, change, read, read_all, submit_all
from tests.support.sample_tasks import AT_ONCE, TemporaryError, add

seen: list[FailedTask] = []


@task(name="failures.note")
async def note(_context: TaskContext, failed: FailedTask) -> str:
    """Remember what failed."""
    seen.append(failed)
    return failed.error.type


@task(name="failures.order", on_failure=note, max_attempts=2, retry=AT_ONCE, retry_on=(TemporaryError,))
async def order(context: TaskContext, payload: dict[str, str]) -> str:
    """End as the payload says."""
    match payload["end"]:
        case "refuse":
            raise TaskFailed("out of stock")
        case "fail":
            raise TemporaryError
        case "fail once" if context.attempt == 1:
            raise TemporaryError
    return "done"


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


def by_name(records: Any) -> dict[str, Any]:
    return {record.name: record for record in records}


@pytest.mark.parametrize(("end", "kind"), [("refuse", "TaskFailed"), ("fail", "TemporaryError")])
async def test_a_task_that_fails_for_good_is_followed_by_one_that_knows_what_failed(
    end: str, kind: str, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    correlated = NewTask.of(order, {"end": end, "item": "17"}, owner="ada", correlation_id="request-1")
    await submitter.submit(correlated)
    records = by_name(await run_tasks())
    assert records["failures.order"].status == "failed"
    assert len(records) == 2
    follower = records["failures.note"]
    assert (follower.status, follower.result) == ("completed", kind)
    assert (follower.owner, follower.correlation_id) == ("ada", "request-1")
    [failed] = seen
    assert (failed.id, failed.name) == (correlated.id, "failures.order")
    assert failed.payload == {"end": end, "item": "17"}
    assert failed.error.model_dump() == records["failures.order"].error


async def test_a_task_that_does_not_fail_for_good_is_followed_by_nothing(
    submitter: Submitter, run_tasks: TaskRunner, client: AsyncClient
) -> None:
    ids = await submit_all(submitter, order, [{"end": "well"}, {"end": "fail once"}, {"end": "refuse"}])
    await client.post(f"/tasks/{ids[2]}/cancel")
    records = await run_tasks()
    assert [record.status for record in records] == ["completed", "completed", "cancelled"]
    assert seen == []


async def test_between_two_attempts_nothing_follows(submitter: Submitter, run_tasks: TaskRunner) -> None:
    await submit_all(submitter, order, [{"end": "fail"}])
    await run_tasks.deliver()
    [record] = await read_all(submitter.database)
    assert (record.status, record.attempt) == ("pending", 1)


async def test_a_cancellation_that_meets_a_failed_attempt_is_followed_by_nothing(
    submitter: Submitter, run_tasks: TaskRunner, database: Database
) -> None:
    [task_id] = await submit_all(submitter, order, [{"end": "fail"}])
    await run_tasks.deliver()
    await change(database, task_id, status="running", fence=5, lease_expires_at=LONG_AGO, cancel_requested_at=LONG_AGO)
    await reclaim(run_tasks)
    assert [record.status for record in await run_tasks()] == ["cancelled"]


async def reclaim(run_tasks: TaskRunner) -> None:
    """Let recovery take what dead workers held, without waiting until it may."""
    trust_database(run_tasks.worker.recovery)
    await run_tasks.worker.recovery.tick()


async def test_a_task_given_up_because_its_workers_were_lost_is_followed_too(
    submitter: Submitter, run_tasks: TaskRunner, database: Database, queue: InlineQueue
) -> None:
    [task_id] = await submit_all(submitter, order, [{"end": "well"}])
    queue.messages.clear()
    for crashes in range(3):
        assert seen == []
        await change(database, task_id, status="running", fence=crashes + 1, attempt=1, lease_expires_at=LONG_AGO)
        await reclaim(run_tasks)
        assert (await read(database, task_id)).crashes == crashes + 1
        if crashes < 2:
            queue.messages.clear()  # nobody takes it before the next one is lost
    await reclaim(run_tasks)  # again: there is nothing more to do
    records = await run_tasks()
    assert [record.status for record in records] == ["failed", "completed"]
    [failed] = seen
    assert (failed.id, failed.payload, failed.error.type) == (task_id, {"end": "well"}, "worker_lost")


async def claimed(submitter: Submitter, database: Database) -> tuple[Task[Any, Any], UUID, store.Pair]:
    """Return a task that runs, and the task that is to follow its failure."""
    [task_id] = await submit_all(submitter, order, [{"end": "refuse"}])
    await change(database, task_id, status="running", fence=1, attempt=1, lease_expires_at=LONG_AGO)
    return note, task_id, (task_id, 1)


def failure_of(task_id: UUID) -> Failed:
    error = {"type": "TaskFailed", "message": "no"}
    payload = FailedTask.model_validate({"id": task_id, "name": "failures.order", "payload": None, "error": error})
    return Failed(error, [NewTask.of(note, payload)])


async def test_the_record_fails_and_its_follower_comes_to_be_together_or_not_at_all(
    submitter: Submitter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task_id, pair = await claimed(submitter, database)

    async def refuse(_connection: Connection, _row: Any) -> Any:
        raise ValueError("the follower cannot be recorded")

    monkeypatch.setattr(store, "add", refuse)
    with pytest.raises(ValueError, match="follower"):
        await Settler(database, submitter).settle(pair, failure_of(task_id))
    [record] = await read_all(database)
    assert record.status == "running"  # its lease runs out, and it is run again


async def test_a_settlement_that_is_repeated_submits_the_follower_once(
    submitter: Submitter, database: Database, queue: InlineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, task_id, pair = await claimed(submitter, database)
    commits = 0
    begin = Database.begin

    class Unanswered:
        """A transaction whose commit happens, and whose answer is lost."""

        def __init__(self) -> None:
            self._block = begin(database)

        async def __aenter__(self) -> Any:
            return await self._block.__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            nonlocal commits
            await self._block.__aexit__(*error)
            commits += 1
            if commits == 1:
                raise OperationalError("COMMIT", {}, ConnectionError("connection lost"))

    monkeypatch.setattr(database, "begin", Unanswered)
    outcome = failure_of(task_id)
    assert await Settler(database, submitter).settle(pair, outcome)
    assert not await Settler(database, submitter).settle((task_id, 0), outcome)  # an older claim
    assert commits > 1
    records = by_name(await read_all(database))
    assert records["failures.order"].status == "failed"
    assert records["failures.note"].id == outcome.children[0].id
    assert len(records) == 2


async def test_a_follower_that_fails_is_followed_by_what_it_declares_itself(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    @task(name="test.broken_note", max_attempts=1)
    async def broken_note(_context: TaskContext, _failed: FailedTask) -> None:
        raise TaskFailed

    @task(name="test.order", on_failure=broken_note)
    async def other_order(_context: TaskContext, _payload: None) -> None:
        raise TaskFailed

    await submit_all(submitter, other_order, [None])
    await submit_all(submitter, add, [[1]])
    assert sorted(record.status for record in await run_tasks()) == ["completed", "failed", "failed"]
