"""How a child process is started, so that it does not outlive its parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1


def child_options(death_signal: signal.Signals = signal.SIGKILL, user: int | None = None) -> dict[str, Any]:
    """Return what `subprocess.Popen` and asyncio's counterpart need to start such a child.

    It leads a session of its own: Ctrl-C in the terminal does not reach it, and its process group is all it
    starts. On Linux it gets `death_signal` when the thread that started it ends, however that happens. With a
    `user`, which only root may give, it runs as that user, in the group of the same number and no other.
    """
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "linux":
        options["preexec_fn"] = _tie_to_parent(death_signal)
    if user is not None:
        options |= {"user": user, "group": user, "extra_groups": []}
    return options


def end_with_make() -> None:
    """If make has started this process, have it told to stop (SIGTERM) when make ends, however that happens."""
    if sys.platform == "linux" and "MAKELEVEL" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _tie_to_parent(death_signal: signal.Signals) -> Callable[[], None]:
    # Looked up here: between fork and exec a child should take no lock that another thread may hold.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return tie
