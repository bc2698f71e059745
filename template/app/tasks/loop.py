"""Doing one thing again and again in the background, until it is told to stop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

STOP_SECONDS = 5.0


class Loop:
    """Calls `step` on the running event loop, and again `pause` seconds after it has returned. It must not raise."""

    def __init__(self, step: Callable[[], Awaitable[None]], pause: float) -> None:
        self._step = step
        self._pause = pause
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop after the step under way; one that takes too long is cut off."""
        self._stopping.set()
        if self._running is not None:
            # Not by cancelling alone: a driver may raise an error in place of the cancellation, which is lost then.
            await asyncio.wait([self._running], timeout=STOP_SECONDS)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._step()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause)
