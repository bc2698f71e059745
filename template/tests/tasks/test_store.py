"""The statements that move a record: one claim at a time, fenced, and nothing lost with a worker."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.database import Database, now
from app.settings import Settings
from app.tasks import NewTask, Submitter, TaskRecord, store
from app.tasks.store import Claim, Pair
from tests.support.records import LATER, LONG_AGO, change, count, read, read_all, submit_all
from tests.support.sample_tasks import add, refuse

ERROR = {"type": "test", "message": "failed"}
DONE = {"fraction": 0.5, "message": "half"}


async def claim(
    database: Database, ids: Collection[UUID], *, worker: str = "me", known: str = "sample.add", suspects: bool = True
) -> list[Claim]:
    """Claim tasks in a transaction of their own."""
    async with database.begin() as connection:
        return await store.claim(
            connection,
            ids,
            known=[known],
            worker=worker,
            token=uuid4(),
            lease=60.0,
            may_take_suspect=suspects,
        )


async def claim_one(database: Database, task_id: UUID) -> Pair:
    """Claim a task that can be claimed."""
    [claimed] = await claim(database, [task_id])
    return claimed.id, claimed.fence


async def lose(database: Database, task_id: UUID) -> None:
    """Let a lease run out, and reclaim the task."""
    await change(database, task_id, lease_expires_at=LONG_AGO)
    async with database.begin() as connection:
        await store.reclaim(connection, known=["sample.add"], limit=10)


async def do(database: Database, statement: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run a statement in a transaction of its own."""
    async with database.begin() as connection:
        return await statement(connection, *arguments)


async def columns(database: Database, task_id: UUID) -> dict[str, Any]:
    """Return everything in a record."""
    record = await read(database, task_id)
    return {column.name: getattr(record, column.name) for column in TaskRecord.__table__.columns}


@pytest.fixture
async def task_id(submitter: Submitter) -> UUID:
    """A task that waits."""
    [task_id] = await submit_all(submitter, add, [[1]])
    return task_id


async def test_concurrent_claims_give_each_task_to_one(submitter: Submitter, database: Database) -> None:
    ids = await submit_all(submitter, add, ([number] for number in range(60)))
    orders = [random.sample(ids, len(ids)) for _ in range(4)]
    claims = await asyncio.gather(*(claim(database, order, worker=f"worker {n}") for n, order in enumerate(orders)))
    taken = [claimed.id for several in claims for claimed in several]
    assert sorted(taken) == ids
    assert {record.fence for record in await read_all(database)} == {1}
    assert {record.attempt for record in await read_all(database)} == {1}


async def submit_many(submitter: Submitter) -> list[UUID]:
    """Submit so many tasks that statements over all of them meet."""
    group = [NewTask.of(add, [number]) for number in range(500)]
    return [accepted.id for accepted in await submitter.submit_many(group)]


async def test_statements_on_the_same_rows_in_any_order_do_not_deadlock(
    submitter: Submitter, database: Database, settings: Settings
) -> None:
    ids = await submit_many(submitter)
    pairs = [(claimed.id, claimed.fence) for claimed in await claim(database, ids)]

    async def renew_again_and_again() -> set[Pair]:
        orders = [random.sample(pairs, len(pairs)) for _ in range(8)]
        return set().union(*[await do(database, store.renew, order, 60.0) for order in orders])

    renewed = await asyncio.gather(*(renew_again_and_again() for _ in range(settings.database_pool_size)))
    assert set().union(*renewed) == set(pairs)


async def test_groups_of_completions_in_any_order_do_not_deadlock(
    submitter: Submitter, database: Database, settings: Settings
) -> None:
    ids = await submit_many(submitter)
    outcomes = [((claimed.id, claimed.fence), 1) for claimed in await claim(database, ids)]
    await asyncio.gather(*(count(database) for _ in range(20)))  # every connection is open, so that all start together

    async def settle_again_and_again() -> set[Pair]:
        orders = [random.sample(outcomes, len(outcomes)) for _ in range(4)]
        return set().union(*[await do(database, store.settle_all_completed, order) for order in orders])

    settled = await asyncio.gather(*(settle_again_and_again() for _ in range(settings.database_pool_size)))
    assert set().union(*settled) == {pair for pair, _ in outcomes}


async def test_a_claim_says_who_has_the_task_and_until_when(task_id: UUID, database: Database) -> None:
    [claimed] = await claim(database, [task_id])
    record = await read(database, task_id)
    assert (claimed.id, claimed.payload, claimed.attempt, claimed.fence) == (task_id, [1], 1, 1)
    assert (record.status, record.worker) == ("running", "me")
    assert record.lease_expires_at is not None
    assert record.started_at is not None
    assert 59 < (record.lease_expires_at - record.started_at).total_seconds() < 61


@pytest.mark.parametrize(
    "state",
    [
        {"run_at": LATER},
        {"name": "nobody.knows"},
        {"status": "running", "lease_expires_at": LATER},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
    ],
)
async def test_only_a_due_pending_task_with_a_known_name_is_claimed(
    state: dict[str, Any], task_id: UUID, database: Database
) -> None:
    await change(database, task_id, **state)
    before = await columns(database, task_id)
    assert await claim(database, [task_id]) == []
    assert await columns(database, task_id) == before


async def test_of_the_tasks_that_lost_a_worker_one_is_claimed_at_a_time(
    submitter: Submitter, database: Database
) -> None:
    ids = await submit_all(submitter, add, [[1], [2], [3], [4]])
    for suspect in ids[1:]:
        await change(database, suspect, crashes=1)
    assert [claimed.id for claimed in await claim(database, ids, suspects=False)] == [ids[0]]
    assert [claimed.id for claimed in await claim(database, ids)] == [ids[1]]
    assert [claimed.id for claimed in await claim(database, ids, worker="another")] == [ids[2]]


FENCED: list[tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]] = [
    (store.settle_completed, (1,)),
    (store.settle_failed, (ERROR,)),
    (store.settle_retry, (ERROR, 1.0)),
    (store.settle_cancelled, ()),
    (store.release, ()),
    (store.record_progress, (DONE,)),
]


@pytest.mark.parametrize(("statement", "arguments"), FENCED, ids=[statement.__name__ for statement, _ in FENCED])
async def test_an_old_claim_changes_nothing(
    statement: Callable[..., Awaitable[bool]], arguments: tuple[Any, ...], task_id: UUID, database: Database
) -> None:
    old = await claim_one(database, task_id)
    await lose(database, task_id)
    waiting = await columns(database, task_id)
    assert await do(database, statement, old, *arguments) is False
    assert await columns(database, task_id) == waiting
    new = await claim_one(database, task_id)
    running = await columns(database, task_id)
    assert await do(database, statement, old, *arguments) is False
    assert await columns(database, task_id) == running
    assert await do(database, statement, new, *arguments) is True


async def test_an_old_claim_is_not_renewed(submitter: Submitter, database: Database) -> None:
    lost, kept = await submit_all(submitter, add, [[1], [2]])
    old, good = await claim_one(database, lost), await claim_one(database, kept)
    await lose(database, lost)
    new = await claim_one(database, lost)
    before = await columns(database, lost)
    assert await do(database, store.renew, [old, good], 600.0) == {good: False}
    assert await columns(database, lost) == before
    assert await do(database, store.still_held, [old, new, good]) == {new, good}


async def test_a_renewal_brings_back_the_wish_to_cancel(task_id: UUID, database: Database) -> None:
    pair = await claim_one(database, task_id)
    await change(database, task_id, cancel_requested_at=now())
    assert await do(database, store.renew, [pair], 60.0) == {pair: True}


async def test_a_lost_worker_counts_as_a_crash_and_not_as_an_attempt(task_id: UUID, database: Database) -> None:
    await claim_one(database, task_id)
    await lose(database, task_id)
    record = await read(database, task_id)
    assert (record.status, record.crashes, record.attempt, record.fence) == ("pending", 1, 0, 1)
    assert (record.sent_at, record.lease_expires_at) == (None, None)  # a message is owed


async def test_a_task_that_loses_three_workers_fails(task_id: UUID, database: Database) -> None:
    for _ in range(3):
        await claim_one(database, task_id)
        await lose(database, task_id)
    record = await read(database, task_id)
    assert (record.status, record.crashes, record.error["type"]) == ("failed", 3, "worker_lost")
    assert record.finished_at is not None


async def test_a_worker_whose_lease_stands_keeps_its_task(task_id: UUID, database: Database) -> None:
    await claim_one(database, task_id)
    before = await columns(database, task_id)
    assert await do(database, lambda c: store.reclaim(c, known=["sample.add"], limit=10)) == []
    assert await columns(database, task_id) == before


async def test_a_release_hands_a_task_back_as_if_it_had_not_begun(task_id: UUID, database: Database) -> None:
    pair = await claim_one(database, task_id)
    assert await do(database, store.release, pair)
    record = await read(database, task_id)
    assert (record.status, record.attempt, record.crashes) == ("pending", 0, 0)
    assert (record.sent_at, record.lease_expires_at) == (None, None)
    assert (await claim_one(database, task_id))[1] > pair[1]


@pytest.mark.parametrize("way", ["retry", "release", "reclaim"])
async def test_a_task_whose_cancellation_is_asked_for_does_not_begin_again(
    way: str, task_id: UUID, database: Database
) -> None:
    pair = await claim_one(database, task_id)
    await change(database, task_id, cancel_requested_at=now())
    match way:
        case "retry":
            assert await do(database, store.settle_retry, pair, ERROR, 1.0)
        case "release":
            assert await do(database, store.release, pair)
        case "reclaim":
            await lose(database, task_id)
    record = await read(database, task_id)
    assert (record.status, record.lease_expires_at) == ("cancelled", None)
    assert record.finished_at is not None


async def test_a_success_counts_although_the_cancellation_was_asked_for(task_id: UUID, database: Database) -> None:
    pair = await claim_one(database, task_id)
    await change(database, task_id, cancel_requested_at=now())
    assert await do(database, store.settle_completed, pair, 7)
    record = await read(database, task_id)
    assert (record.status, record.result) == ("completed", 7)


async def test_only_what_ended_long_ago_is_purged(submitter: Submitter, database: Database) -> None:
    old, recent, waiting, running = await submit_all(submitter, add, [[1], [2], [3], [4]])
    await change(database, old, status="failed", finished_at=LONG_AGO)
    await change(database, recent, status="completed", finished_at=now())
    await change(database, waiting, created_at=LONG_AGO, run_at=LONG_AGO)
    await change(database, running, status="running", created_at=LONG_AGO, lease_expires_at=LONG_AGO)
    assert await do(database, lambda c: store.purge(c, older_than=1800, limit=10)) == 1
    assert [record.id for record in await read_all(database)] == [recent, waiting, running]


async def test_a_purge_takes_no_more_than_its_batch(submitter: Submitter, database: Database) -> None:
    for task_id in await submit_all(submitter, refuse, ["a", "b", "c"]):
        await change(database, task_id, status="failed", finished_at=LONG_AGO)
    assert await do(database, lambda c: store.purge(c, older_than=1800, limit=2)) == 2
    assert await count(database) == 1


async def test_the_version_grows_whenever_a_client_can_see_a_change(task_id: UUID, database: Database) -> None:
    versions = [(await read(database, task_id)).version]

    async def note() -> None:
        versions.append((await read(database, task_id)).version)

    pair = await claim_one(database, task_id)
    await note()
    await do(database, store.record_progress, pair, DONE)
    await note()
    await do(database, store.settle_retry, pair, ERROR, 0.0)
    await note()
    await do(database, store.put_off, [task_id], 0.0)
    await note()
    pair = await claim_one(database, task_id)
    await note()
    await do(database, store.release, pair)
    await note()
    await claim_one(database, task_id)
    await note()
    await lose(database, task_id)
    await note()
    pair = await claim_one(database, task_id)
    await note()
    await do(database, store.settle_completed, pair, 1)
    await note()
    assert versions == sorted(set(versions))


async def test_a_renewal_is_no_change_that_a_client_sees(task_id: UUID, database: Database) -> None:
    pair = await claim_one(database, task_id)
    version = (await read(database, task_id)).version
    assert await do(database, store.renew, [pair], 60.0) == {pair: False}
    assert (await read(database, task_id)).version == version
