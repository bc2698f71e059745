"""One command with the environment of `make dev`: `python -m scripts.run api`, or any other program.

After `--database` the broker may be missing: `python -m scripts.run --database migrate`.
"""

import os
import sys

from scripts.environment import DATA, ROOT, check_reachable, read_urls, service_environment
from scripts.errors import DevelopmentError
from scripts.processes import api_command, background_commands, migrate_command
from scripts.servers import embedded_servers


def main(arguments: list[str]) -> None:
    """Become that command, so that signals and its exit code are its own."""
    needed = embedded_servers(DATA)
    if arguments[:1] == ["--database"]:
        arguments = arguments[1:]
        needed = [server for server in needed if server.variable == "DATABASE_URL"]
    environment = service_environment(read_urls())
    try:
        for server in needed:
            if server.variable not in environment:
                raise DevelopmentError(f"{server.variable} is not set")
            check_reachable(server, environment[server.variable])
    except DevelopmentError as problem:
        sys.exit(f"{problem}.\nStart `make dev` in another terminal, or set it in the environment or .env.")
    match arguments:
        case ["api"]:
            command = api_command("--host", environment["HOST"], "--port", environment["PORT"])
        case [name] if name in background_commands():
            command = background_commands()[name]
        case ["migrate"]:
            command = migrate_command()
        case _:
            command = arguments
    os.chdir(ROOT)
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
