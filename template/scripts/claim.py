"""What only one `make dev` can have: the checkout, and the API's port."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Mapping

from scripts.environment import DATA
from scripts.errors import DevelopmentError

BACKLOG = 2048
LAST_RUN_SECONDS = 5


def claim_checkout() -> int:
    """Return a file descriptor that holds the lock on the data folder for as long as any process has it open.

    Raises DevelopmentError if another `make dev`, or what is left of one, holds it.
    """
    try:
        DATA.mkdir(exist_ok=True)
        descriptor = os.open(DATA / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise DevelopmentError(f"{DATA} belongs to another user; deleting it deletes its data") from error
    deadline = time.monotonic() + LAST_RUN_SECONDS
    while not _locks(descriptor):
        holder = int(os.pread(descriptor, 20, 0) or 0)
        if holder and _is_alive(holder):
            raise DevelopmentError(f"`make dev` runs in this folder already (process {holder})")
        if time.monotonic() > deadline:
            raise DevelopmentError(f"`make dev` was killed and left processes: `lsof {DATA / 'lock'}`")
        time.sleep(0.1)  # they are about to end
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def claim_port(environment: Mapping[str, str]) -> socket.socket:
    """Return the API's listening socket, which outlives the API's restarts.

    Raises DevelopmentError if HOST and PORT cannot be had.
    """
    host, port = environment["HOST"], environment["PORT"]
    if not port.isdecimal() or int(port) > 65535:
        raise DevelopmentError(f"PORT is {port!r}; it must be a number up to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = f"`make dev PORT={int(port) + 1}`"
            raise DevelopmentError(f"port {port} is taken; {other} uses another") from None
        raise DevelopmentError(f"the API cannot listen on {host}:{port} ({error.strerror})") from None
    # uvicorn takes the socket for one of another kind, and leaves this unset on connections; they inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
