"""How a run is stopped: what it awaits to clean up is left in peace, unless its task is lost."""

import asyncio
from collections.abc import Callable

import pytest

from app.tasks import Submitter, TaskContext, task
from app.tasks.run import Run, Stop
from tests.support.inline import TaskRunner
from tests.support.records import read_all, submit_all
from tests.support.waiting import PATIENCE_SECONDS, until

TURNS = 20
"""Of the event loop: enough for a cancellation to arrive."""


def ask_to_cancel(run: Run) -> None:
    """What the heartbeat says while a cancellation is asked for."""
    run.ask_to_cancel()


def shut_down(run: Run) -> None:
    """What a worker says that stops."""
    run.stop(Stop.SHUTDOWN)


class Cleaning:
    """A task that cleans up for as long as it is let, and notes what cuts it off."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cleaning = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cut_off = False

    async def run(self, _context: TaskContext, _payload: None) -> None:
        """Work, and clean up in the end."""
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.cleaning.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cut_off = True
                raise


async def pass_turns() -> None:
    """Let the event loop do what it has been told."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def start(submitter: Submitter, run_tasks: TaskRunner) -> tuple[Cleaning, Run, "asyncio.Task[None]"]:
    """Run a task that cleans up; return it, its run and its delivery."""
    cleaning = Cleaning()
    defined = task(name="test.clean_up")(cleaning.run)
    await submit_all(submitter, defined, [None])
    delivery = asyncio.create_task(run_tasks.deliver())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await cleaning.begun.wait()
    [run] = run_tasks.worker.executor.runs.values()
    return cleaning, run, delivery


@pytest.mark.parametrize(("stop", "status"), [(ask_to_cancel, "cancelled"), (shut_down, "pending")])
async def test_what_says_it_again_does_not_cut_off_the_cleaning_up(
    stop: Callable[[Run], None], status: str, submitter: Submitter, run_tasks: TaskRunner
) -> None:
    cleaning, run, delivery = await start(submitter, run_tasks)
    stop(run)
    await until(cleaning.cleaning.is_set)
    for _ in range(3):
        stop(run)
        ask_to_cancel(run)
        await pass_turns()
    assert not cleaning.cut_off
    cleaning.go_on.set()
    await delivery
    [record] = await read_all(run_tasks.worker.database)
    assert record.status == status


@pytest.mark.parametrize("stop", [ask_to_cancel, shut_down])
async def test_a_task_that_is_lost_meanwhile_is_stopped_once_more(
    stop: Callable[[Run], None], submitter: Submitter, run_tasks: TaskRunner
) -> None:
    cleaning, run, delivery = await start(submitter, run_tasks)
    stop(run)
    await until(cleaning.cleaning.is_set)
    run.lose()
    await delivery
    assert cleaning.cut_off
    [record] = await read_all(run_tasks.worker.database)
    assert record.status == "running"  # it is another worker's to settle


async def test_a_lost_task_cleans_up_although_it_is_said_at_every_beat(
    submitter: Submitter, run_tasks: TaskRunner
) -> None:
    cleaning, run, delivery = await start(submitter, run_tasks)
    for _ in range(3):
        run.lose()
        await pass_turns()
    assert cleaning.cleaning.is_set()
    assert not cleaning.cut_off
    cleaning.go_on.set()
    await delivery
