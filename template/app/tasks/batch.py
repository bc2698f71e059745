"""Group commit: what many ask for at the same time is done in one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app.database import is_unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batch(Generic[T, R]):
    """Does items together: those that come while others are under way form the next group.

    `run` takes a group and returns a result for each item, in their order. There is no waiting for a group to fill:
    a single item goes at once.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, size: int = 100, at_once: int = 2
    ) -> None:
        self._run = run
        self._size = size
        self._free = at_once
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._groups: set[asyncio.Task[None]] = set()

    async def do(self, item: T) -> R:
        """Do an item in a group, and return its result. Cancelling this leaves the others of the group alone.

        Raises what `run` raises for the group if the database is away, otherwise only for the item itself.
        """
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._start()
        return await done

    def _start(self) -> None:
        if self._free and self._waiting:
            self._free -= 1
            group = asyncio.get_running_loop().create_task(self._work())
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)

    async def _work(self) -> None:
        try:
            await asyncio.sleep(0)  # those that came in the same turn of the loop join in
            while self._waiting:
                group, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
                await self._do(group)
        finally:
            self._free += 1
            self._start()

    async def _do(self, group: Sequence[tuple[T, "asyncio.Future[R]"]]) -> None:
        try:
            results = await self._run([item for item, _ in group])
        except Exception as error:
            if len(group) > 1 and not is_unavailable(error):
                for member in group:  # one of them is bad: the others must not suffer for it
                    await self._do([member])
                return
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)
