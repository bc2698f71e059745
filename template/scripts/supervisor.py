"""One supervised process: started, its output read line by line, stopped with all that it started."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scripts.children import child_options

MAX_LINE = 64 * 1024


class Process:
    """A process that may be started again after it has ended.

    `on_line` gets each line of its output; `on_exit` gets its return code if it ends by itself.
    """

    def __init__(
        self,
        name: str,
        on_line: Callable[[str], None],
        on_exit: Callable[[int], None],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.is_stopping = False
        self._on_line = on_line
        self._on_exit = on_exit
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether it has been started and has not ended."""
        return self._end is not None and not self._end.done()

    async def start(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        inherit: Sequence[int] = (),
        user: int | None = None,
    ) -> None:
        """Start it; it inherits these file descriptors and no others."""
        self.is_stopping = False
        reader, writer = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=inherit,
                **child_options(self._death_signal, user),
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._end = asyncio.create_task(self._follow(self._process, Output(reader, self._on_line)))

    async def wait(self) -> int:
        """Wait for its end and return its code: negative for the signal that ended it."""
        if self._end is None:
            raise RuntimeError(f"{self.name} has not been started")
        return await asyncio.shield(self._end)

    async def stop(self, grace: float) -> None:
        """Ask it to end, and kill it after the grace; returns when it has ended."""
        self.is_stopping = True
        if self._end is None or self._process is None:
            return
        if self.is_running:
            with suppress(ProcessLookupError):
                # Not by its own method, which may take the exit code away from the one that waits for it.
                os.kill(self._process.pid, self._stop_signal)
            await asyncio.wait({self._end}, timeout=grace)
        self.kill()
        await self._end

    def kill(self) -> None:
        """End it and all that it started, now."""
        self.is_stopping = True
        if self.is_running and self._process is not None:
            _kill_group(self._process.pid)

    async def _follow(self, process: asyncio.subprocess.Process, output: "Output") -> int:
        code = await process.wait()
        _kill_group(process.pid)  # what it started and left behind
        output.close()
        if not self.is_stopping:
            self._on_exit(code)
        return code


class Output:
    """Reads a pipe as data arrives, and passes on whole lines.

    It does not wait for the pipe's end: a grandchild may hold it open after the process has ended.
    """

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._on_line = on_line
        self._rest = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def close(self) -> None:
        """Pass on what is left, and stop reading."""
        while self._read():
            pass
        if self._rest:
            self._on_line(self._rest.decode(errors="replace"))
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> bool:
        """Read once; tells whether there may be more."""
        try:
            data = os.read(self._descriptor, MAX_LINE)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace").rstrip("\r"))
        if len(self._rest) > MAX_LINE:
            self._on_line(self._rest.decode(errors="replace"))
            self._rest = b""
        return True


def _kill_group(leader: int) -> None:
    # PermissionError: on macOS a group of which only a dead process is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
