"""Which environment the service's processes get: what is set, then `.env`, then what `make dev` provides."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from scripts.errors import DevelopmentError
from scripts.servers import embedded_servers
from scripts.servers.process import Server

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".dev"
URLS = DATA / "env"
DEFAULTS = {
    "ENVIRONMENT": "development",
    "LOG_FORMAT": "console",
    # Short, so that a restart in the middle of a task does not hold it up.
    "TASK_LEASE_SECONDS": "3",
    "SHUTDOWN_GRACE_SECONDS": "2",
    "HOST": "127.0.0.1",
    "PORT": "8000",
    "PYTHONUNBUFFERED": "1",
}


def given_environment() -> dict[str, str]:
    """Return what the user has set: environment variables, then ENV_FILE; an empty value counts as not set."""
    file = ROOT / os.environ.get("ENV_FILE", ".env")
    both = {**dotenv_values(file), **{name: value for name, value in os.environ.items() if value}}
    return {name: value for name, value in both.items() if value}


def service_environment(urls: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a process, with these URLs where the user has given none."""
    return {**DEFAULTS, **urls, **given_environment()}


def write_urls(urls: Mapping[str, str]) -> None:
    """Tell the other commands where the servers are; only this user may read it, as it holds passwords."""
    URLS.unlink(missing_ok=True)
    URLS.touch(mode=0o600)
    URLS.write_text("".join(f"{name}={value}\n" for name, value in urls.items()))


def forget_urls() -> None:
    """The servers have stopped; their ports may soon be others'."""
    URLS.unlink(missing_ok=True)


def read_urls() -> dict[str, str]:
    """Return what `write_urls` wrote, and the URLs of those servers that are only files."""
    written = dotenv_values(URLS, interpolate=False)
    urls = {name: value for name, value in written.items() if value}
    for server in embedded_servers(DATA):
        if server.is_file and server.variable not in urls:
            server.prepare()
            urls[server.variable] = server.url
    return urls


def check_reachable(server: Server, url: str) -> None:
    """Raise DevelopmentError if nothing accepts a connection at a URL that takes the place of a server."""
    try:
        parts = urlsplit(url)
        address = (parts.hostname, parts.port or server.default_port)
    except ValueError:
        return  # several hosts, or not a URL at all: the service says what is wrong
    if not address[0] or not address[1]:
        return
    try:
        socket.create_connection((address[0], address[1]), timeout=5).close()
    except OSError as error:
        raise DevelopmentError(
            f"{server.variable} names {address[0]}:{address[1]}, and nothing answers there ({error})"
        ) from error
