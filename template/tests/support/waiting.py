"""Waiting for something to become true, instead of sleeping for as long as it might take."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once the condition holds; fail if it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
