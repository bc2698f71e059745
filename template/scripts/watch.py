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

    async def watch(*folders: Path, recursive: bool, matters: Callable[[Change, str], bool]) -> None:
        changes = awatch(*folders, recursive=recursive, watch_filter=matters, step=QUIET_MILLISECONDS)
        async for batch in changes:
            on_change({Path(path) for _change, path in batch})

    # The second is for `.env`, which need not exist; the folder has too much in it to watch all of it.
    await asyncio.gather(
        watch(root / "app", root / "migrations", recursive=True, matters=_is_code),
        watch(root, recursive=False, matters=lambda _change, path: Path(path).name == ".env"),
    )


def _is_code(change: Change, path: str) -> bool:
    """Tell whether it is a Python file, or a new folder: files that are in it at once may not be reported."""
    found = Path(path)
    if found.name.startswith((".", "__pycache__")):
        return False
    return found.suffix == ".py" or (change == Change.added and found.is_dir())
