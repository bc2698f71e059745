"""An interactive session with the database: `make psql`."""

import os
import shutil
from urllib.parse import urlsplit

from scripts.servers.postgresql import binaries


def main() -> None:
    """Become the psql of this system, or that of the embedded server."""
    url = urlsplit(os.environ["DATABASE_URL"])
    program = shutil.which("psql") or str(binaries() / "psql")
    arguments = [program, url._replace(scheme="postgresql").geturl()]  # psql knows no drivers
    os.execv(program, arguments)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
