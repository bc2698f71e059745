"""Servers of a test's own, to be frozen, stopped and started again."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.children import child_options
from scripts.servers import embedded_servers
from scripts.servers.process import STOP_SECONDS, Server, log_path, wait_until_ready


class OwnServer:
    """A server on a port that stays the same when it is started again. It keeps nothing that is not on disk."""

    def __init__(self, server: Server) -> None:
        server.folder.parent.mkdir(parents=True, exist_ok=True)
        server.prepare()
        self.url = server.url
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers. On Linux it ends with the thread that started it."""
        with log_path(self._server).open("wb") as log:
            process = subprocess.Popen(
                self._server.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._server.folder,
                **child_options(self._server.stop_signal, self._server.user),
            )
        self._process = process
        wait_until_ready(self._server, lambda: process.poll() is None)

    def stop(self) -> None:
        """Stop it; clients are disconnected, then refused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(self._server.stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it stand still: connections are accepted by the system, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def own_server(variable: str, folder: Path) -> Iterator[OwnServer]:
    """Run a server of the kind that DATABASE_URL or BROKER_URL names, and stop it at the end."""
    [server] = [server for server in embedded_servers(folder, durable=False) if server.variable == variable]
    own = OwnServer(server)
    try:
        own.start()
        yield own
    finally:
        own.stop()
