"""Flower, Celery's own view of its workers, behind a password: `make flower`."""

import os
import sys

PORT = "5555"


def main() -> None:
    """Become Flower."""
    password = os.environ.get("FLOWER_PASSWORD", "")
    if not password:
        sys.exit("FLOWER_PASSWORD is not set. Set it in the environment or .env; the user's name is app.")
    port = os.environ.get("FLOWER_PORT") or PORT
    environment = os.environ | {"FLOWER_BASIC_AUTH": f"app:{password}"}  # not on the command line: others can read that
    command = [sys.executable, "-m", "celery", "-A", "app.worker", "flower", "--address=127.0.0.1", f"--port={port}"]
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
