"""Which changes of files matter to the running service."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from watchfiles import Change, awatch

QUIET_MILLISECONDS = 100
"""Changes are passed on when nothing has changed for so long: an editor writes many files at once."""


async def watch_files(root: Path, on_change: Callable[[set[Path]], None]) -> None:
    """Report the Python files and settings that change, for as long as this runs.

    Raises OSError if the system cannot watch them.
    """

    async def watch(*folders: Path, recursive: bool) -> None:
        changes = awatch(*folders, recursive=recursive, watch_filter=_matters, step=QUIET_MILLISECONDS)
        async for batch in changes:
            on_change({Path(path) for _change, path in batch})

    # The second is for `.env`, which need not exist; the folder has too much in it to watch all of it.
    await asyncio.gather(
        watch(root / "app", root / "migrations", recursive=True),
        watch(root, recursive=False),
    )


def _matters(_change: Change, path: str) -> bool:
    name = Path(path).name
    return name == ".env" or (name.endswith(".py") and not name.startswith("."))
