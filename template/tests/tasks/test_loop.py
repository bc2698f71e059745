"""What goes on in the background stops when it is told to."""

import asyncio

import pytest

from app.tasks import loop
from app.tasks.loop import Loop
from tests.support.waiting import PATIENCE_SECONDS, until


class Work:
    """A step that waits until it may go on, and whose first cancellation is lost: a driver made an error of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.done = 0

    async def step(self) -> None:
        """Do it once."""
        self.calls += 1
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            if self.calls > 1:
                raise
        else:
            self.done += 1


async def test_a_step_under_way_ends_before_it_stops() -> None:
    work = Work()
    running = Loop(work.step, pause=0)
    running.start()
    await work.begun.wait()
    stopping = asyncio.create_task(running.stop())
    await asyncio.sleep(0)
    work.go_on.set()
    await stopping
    assert (work.calls, work.done) == (1, 1)


async def test_a_step_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STOP_SECONDS", 0.1)
    work = Work()
    running = Loop(work.step, pause=0)
    running.start()
    await work.begun.wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running.stop()
    assert (work.calls, work.done) == (1, 0)


async def test_it_goes_on_until_it_is_stopped_and_does_not_wait_for_the_pause_then() -> None:
    work = Work()
    work.go_on.set()
    running = Loop(work.step, pause=0)
    running.start()
    await until(lambda: work.done >= 3)
    await running.stop()
    done = work.done
    await asyncio.sleep(0)
    assert work.done == done

    patient = Loop(work.step, pause=PATIENCE_SECONDS * 2)
    patient.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await patient.stop()


async def test_what_was_never_started_stops_at_once() -> None:
    await Loop(Work().step, pause=0).stop()
