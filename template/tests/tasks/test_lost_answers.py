"""Commits whose answer is lost, or that are lost themselves: what was asked for happens once all the same."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event

from app.database import Database
from app.tasks import NewTask, Submitter
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.model.world import Commit, World
from tests.support.records import effects, read, read_all, submit_all
from tests.support.sample_tasks import add, write

FATES = [[Commit.LOST], [Commit.UNANSWERED]]


@pytest.fixture
async def world(database: Database, submitter: Submitter) -> World:
    """The submitter's database, whose next commits can be made to fail."""
    return World(database)


@pytest.fixture
async def broken_worker(run_tasks: TaskRunner) -> tuple[TaskRunner, World]:
    """A worker, and its database."""
    return run_tasks, World(run_tasks.worker.database)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("fate", FATES)
async def test_a_submission_is_recorded_once(
    fate: list[Commit], key: str | None, world: World, submitter: Submitter, queue: InlineQueue, database: Database
) -> None:
    world.coming = [*fate]
    accepted = await submitter.submit(NewTask.of(add, [1], key=key))
    assert world.has_failed
    assert [record.id for record in await read_all(database)] == queue.sent == [accepted.id]


@pytest.mark.parametrize("fate", FATES)
async def test_a_claim_is_made_once(
    fate: list[Commit],
    submitter: Submitter,
    queue: InlineQueue,
    broken_worker: tuple[TaskRunner, World],
    database: Database,
) -> None:
    runner, world = broken_worker
    [task_id] = await submit_all(submitter, add, [[1]])
    world.coming = [*fate]
    await runner.deliver()
    assert world.has_failed
    record = await read(database, task_id)
    assert (record.status, record.fence, record.attempt) == ("completed", 1, 1)


@pytest.mark.parametrize(("fate", "status"), [(Commit.LOST, "pending"), (Commit.UNANSWERED, "completed")])
async def test_writes_are_never_separated_from_the_completion(
    fate: Commit,
    status: str,
    submitter: Submitter,
    broken_worker: tuple[TaskRunner, World],
    database: Database,
) -> None:
    runner, world = broken_worker
    [task_id] = await submit_all(submitter, write, [0])
    world.coming = [Commit.DONE, fate]  # the claim, and the completion
    await runner.deliver()
    assert world.has_failed
    record = await read(database, task_id)
    assert record.status == status
    assert await effects(database) == (["effect-1"] if status == "completed" else [])
    await runner()
    assert await effects(database) == ["effect-1"]


async def test_submissions_with_a_key_are_committed_each_by_itself(submitter: Submitter, database: Database) -> None:
    """One whose key an open transaction holds would make a whole group wait."""
    commits: list[Any] = []
    event.listen(database.engine.sync_engine, "commit", commits.append)
    await asyncio.gather(*(submitter.submit(NewTask.of(add, [n], key=f"key {n}")) for n in range(5)))
    assert len(commits) == 5
    await asyncio.gather(*(submitter.submit(NewTask.of(add, [n])) for n in range(5)))
    assert len(commits) == 6
