"""A task that a new version has moved to another queue: its pending records follow, or nobody might run them."""

from typing import Any
from uuid import UUID

import pytest

from app.database import Database, now, plus
from app.tasks import Submitter, recovery
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import LATER, LONG_AGO, change, read, submit_all
from tests.support.sample_tasks import add

A_WHILE_AGO = plus(now(), -10)
BEFORE = "mail"


@pytest.fixture
async def moved(submitter: Submitter, queue: InlineQueue, database: Database) -> UUID:
    """A pending task, recorded by a version in which it had another queue."""
    [task_id] = await submit_all(submitter, add, [[1, 2]])
    queue.messages.clear()
    await change(database, task_id, queue=BEFORE)
    return task_id


def sent_to(queue: InlineQueue) -> list[tuple[str, UUID]]:
    """Return what was sent, and to which queue."""
    return [(message.queue, task_id) for message in queue.messages for task_id in message.ids]


@pytest.mark.parametrize("values", [{}, {"attempt": 1, "run_at": LONG_AGO}], ids=["unsent", "retry"])
async def test_what_is_owed_a_message_is_sent_to_the_queue_that_its_task_has_now(
    values: dict[str, Any], moved: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    await change(database, moved, sent_at=None, **values)
    await run_tasks.worker.recovery.tick()
    assert sent_to(queue) == [("default", moved)]
    assert (await read(database, moved)).queue == "default"
    [record] = await run_tasks()
    assert record.result == 3


async def test_what_waits_in_the_queue_of_before_is_sent_again_once(
    moved: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    await change(database, moved, sent_at=LONG_AGO)
    await run_tasks.worker.recovery.tick()
    assert sent_to(queue) == [("default", moved)]
    assert (await read(database, moved)).queue == "default"
    await run_tasks.worker.recovery.tick()
    assert sent_to(queue) == [("default", moved)]


async def test_what_was_sent_a_moment_ago_is_left_to_the_workers_of_the_version_before(
    moved: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    """Or workers of two versions would send all that waits to and fro."""
    await change(database, moved, sent_at=A_WHILE_AGO)
    await run_tasks.worker.recovery.tick()
    assert sent_to(queue) == []
    assert (await read(database, moved)).queue == BEFORE


async def test_it_is_looked_for_once_in_a_while_and_in_batches(
    submitter: Submitter,
    queue: InlineQueue,
    run_tasks: TaskRunner,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "BATCH", 2)
    ids = await submit_all(submitter, add, [[number] for number in range(4)])
    queue.messages.clear()
    for task_id in ids[:3]:
        await change(database, task_id, queue=BEFORE, sent_at=LONG_AGO)
    await run_tasks.worker.recovery.tick()
    assert len(queue.sent) == 2
    await run_tasks.worker.recovery.tick()
    assert sorted(queue.sent) == ids[:3]
    await change(database, ids[3], queue=BEFORE, sent_at=LONG_AGO)
    await run_tasks.worker.recovery.tick()
    assert sorted(queue.sent) == ids[:3]


@pytest.mark.parametrize("values", [{"name": "nobody.knows"}, {"sent_at": None, "run_at": LATER}])
async def test_what_no_worker_knows_and_what_is_not_due_stays(
    values: dict[str, Any], moved: UUID, queue: InlineQueue, run_tasks: TaskRunner, database: Database
) -> None:
    await change(database, moved, **{"sent_at": LONG_AGO} | values)
    await run_tasks.worker.recovery.tick()
    assert sent_to(queue) == []
    assert (await read(database, moved)).queue == BEFORE
