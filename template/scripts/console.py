"""What the terminal shows: each line under the name of the process that said it."""

import os
import signal
import sys
from collections.abc import Collection

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)


class Console:
    """Writes lines with aligned names in front; in colour on a terminal, unless NO_COLOR is set."""

    def __init__(self, names: Collection[str]) -> None:
        self._width = max(map(len, names))
        self._colours = dict(zip(names, COLOURS, strict=False))
        self._in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(self, name: str, line: str) -> None:
        """Write one line; when nobody reads them any more, tell this process to stop."""
        label = f"{name:<{self._width}} |"
        if self._in_colour:
            label = f"\033[{self._colours.get(name, 0)}m{label}\033[0m"
        try:
            print(label, line, flush=True)
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as this process runs
            os.kill(os.getpid(), signal.SIGTERM)
