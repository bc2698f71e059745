"""`make dev`: all of the service in one terminal, restarted on a change, and nothing of it left behind."""

import asyncio
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from scripts.children import end_with_make
from scripts.claim import claim_checkout, claim_port
from scripts.console import Console
from scripts.environment import (
    DATA,
    ROOT,
    check_reachable,
    forget_urls,
    given_environment,
    service_environment,
    write_urls,
)
from scripts.errors import DevelopmentError
from scripts.processes import api_command, background_commands, migrate_command
from scripts.servers import embedded_servers
from scripts.servers.process import STOP_SECONDS, Server, log_path, wait_until_ready
from scripts.supervisor import Process
from scripts.watch import watch_files


class Development:
    """The servers, the migrations, the API and what runs beside it, for as long as `run` runs."""

    def __init__(self, lock: int, listener: socket.socket, servers: list[Server], urls: dict[str, str]) -> None:
        self._lock = lock
        self._listener = listener
        self._servers = servers
        self._urls = urls
        names = ["api", *background_commands()]
        self._console = Console(["dev", *names, "migrate", *(server.name for server in servers)])
        self._ready: set[str] = set()
        self._server_processes: list[Process] = []
        self._server_ends: asyncio.Queue[Server] = asyncio.Queue()
        self._migrations = Process("migrate", partial(self._console.show, "migrate"), lambda _code: None)
        self._apps = {name: self._app(name) for name in names}
        self._announcement: asyncio.Task[None] | None = None
        self._changes: asyncio.Queue[set[Path]] = asyncio.Queue()
        self._is_stopping = False

    async def run(self) -> None:
        """Start everything and keep it going; stop it all when this is cancelled or a server ends.

        Raises DevelopmentError, alone or in a group, if it cannot start or go on.
        """
        try:
            for server in self._servers:
                await self._start_server(server)
            write_urls(self._urls)
            if not await self._migrate():
                raise DevelopmentError("the migrations failed")
            await self._start_apps()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._restart_on_change())
                tasks.create_task(self._fail_when_a_server_ends())
        finally:
            await self._stop()

    def stop_soon(self, running: asyncio.Task[None], *, at_once: bool) -> None:
        """Stop everything in order; if that is going on already, `at_once` ends what is left."""
        if not self._is_stopping:
            self._is_stopping = True
            running.cancel()
        elif at_once:
            for process in (*self._apps.values(), self._migrations, *self._server_processes):
                process.kill()

    async def _start_server(self, server: Server) -> None:
        await asyncio.to_thread(server.prepare)
        self._urls[server.variable] = server.url
        if server.is_file:
            return
        self._say(f"starting {server.name}")
        log_path(server).write_bytes(b"")
        process = Process(
            server.name,
            partial(self._show_server_line, server),
            partial(self._note_server_end, server),
            stop_signal=server.stop_signal,
            death_signal=server.stop_signal,
        )
        self._server_processes.append(process)
        await process.start(server.command(), folder=server.folder, inherit=(self._lock,), user=server.user)
        await asyncio.to_thread(wait_until_ready, server, lambda: process.is_running)
        self._ready.add(server.name)

    async def _migrate(self) -> bool:
        environment = service_environment(self._urls)
        await self._migrations.start(migrate_command(), folder=ROOT, environment=environment, inherit=(self._lock,))
        return await self._migrations.wait() == 0

    async def _start_apps(self) -> None:
        environment = service_environment(self._urls)
        listener = self._listener.fileno()
        start = partial(Process.start, folder=ROOT, environment=environment)
        await start(self._apps["api"], api_command("--fd", str(listener)), inherit=(self._lock, listener))
        for name, command in background_commands().items():
            await start(self._apps[name], command, inherit=(self._lock,))
        self._announcement = asyncio.create_task(self._announce(is_first=self._announcement is None))

    async def _stop_apps(self) -> None:
        if self._announcement is not None:
            self._announcement.cancel()
        grace = _seconds(service_environment(self._urls)["SHUTDOWN_GRACE_SECONDS"]) + 5
        apps = (*self._apps.values(), self._migrations)
        await asyncio.gather(*(process.stop(grace) for process in apps))

    async def _stop(self) -> None:
        self._is_stopping = True
        self._say("stopping")
        await self._stop_apps()
        forget_urls()
        await asyncio.gather(*(process.stop(STOP_SECONDS) for process in self._server_processes))

    async def _watch(self) -> None:
        try:
            await watch_files(ROOT, self._changes.put_nowait)
        except OSError as error:
            self._say(f"changes are not noticed ({error}); WATCHFILES_FORCE_POLLING=true may help")

    async def _restart_on_change(self) -> None:
        owes_migration = False
        while changed := await self._changes.get():
            while not self._changes.empty():
                changed |= self._changes.get_nowait()
            self._say(f"changed: {', '.join(sorted(str(path.relative_to(ROOT)) for path in changed))}")
            owes_migration |= any(path.is_relative_to(ROOT / "migrations") for path in changed)
            if owes_migration and not await self._migrate():
                self._say("the migrations failed: waiting for a change")
                continue
            owes_migration = False
            if not self._changes.empty():
                continue  # a new revision is formatted as soon as it is written: one restart does for both
            await self._stop_apps()
            await self._start_apps()

    async def _fail_when_a_server_ends(self) -> None:
        server = await self._server_ends.get()
        raise DevelopmentError(f"{server.name} has ended by itself; {_log(server)} may say why")

    async def _announce(self, *, is_first: bool) -> None:
        host, port = self._listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        await _until_live(host, port)
        if not is_first:
            self._say("restarted")
            return
        api = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        urls = {name.removesuffix("_URL").lower(): _without_password(url) for name, url in self._urls.items()}
        logs = ["here", *(_log(server) for server in self._servers if not server.is_file)]
        for name, place in {"API": api, "docs": f"{api}/docs", **urls, "logs": ", ".join(logs)}.items():
            self._say(f"  {name:<10}{place}")
        self._say(f"Ctrl-C stops everything; a change in app/, migrations/ or .env restarts {' and '.join(self._apps)}")

    def _app(self, name: str) -> Process:
        return Process(name, partial(self._console.show, name), partial(self._note_app_end, name))

    def _note_app_end(self, name: str, code: int) -> None:
        self._say(f"{name} {_ending(code)}: waiting for a change")

    def _note_server_end(self, server: Server, code: int) -> None:
        self._say(f"{server.name} {_ending(code)}")
        self._server_ends.put_nowait(server)

    def _show_server_line(self, server: Server, line: str) -> None:
        with log_path(server).open("a") as log:
            log.write(f"{line}\n")
        if server.name in self._ready and not self._is_stopping and server.is_notable(line):
            self._console.show(server.name, line)

    def _say(self, text: str) -> None:
        self._console.show("dev", text)


async def _until_live(host: str, port: int) -> None:
    """Ask the API until it answers; while it starts, the question waits in the socket's queue."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if b" 200 " in await reader.readline():
                    return
            finally:
                writer.close()
        await asyncio.sleep(0.1)


def _log(server: Server) -> str:
    return str(log_path(server).relative_to(ROOT))


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else url


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # the service's own settings say what is wrong
        return 0


async def _supervise(lock: int, listener: socket.socket, servers: list[Server], urls: dict[str, str]) -> None:
    development = Development(lock, listener, servers, urls)
    running = asyncio.create_task(development.run())
    loop = asyncio.get_running_loop()
    # Only a second Ctrl-C means impatience: SIGTERM may come twice, from the process group and from make.
    loop.add_signal_handler(signal.SIGINT, partial(development.stop_soon, running, at_once=True))
    loop.add_signal_handler(signal.SIGTERM, partial(development.stop_soon, running, at_once=False))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        loop.add_signal_handler(signal.SIGHUP, partial(development.stop_soon, running, at_once=False))
    with suppress(asyncio.CancelledError):
        await running


def main() -> int:
    """Run until Ctrl-C or SIGTERM; return the exit code."""
    code = 0
    end_with_make()
    try:
        lock = claim_checkout()
        given = given_environment()
        servers: list[Server] = []
        urls: dict[str, str] = {}
        for server in embedded_servers(DATA):
            if server.variable in given:
                urls[server.variable] = given[server.variable]
                check_reachable(server, given[server.variable])
            else:
                servers.append(server)
        with claim_port(service_environment({})) as listener:
            asyncio.run(_supervise(lock, listener, servers, urls))
    except* DevelopmentError as problems:
        for problem in problems.exceptions:
            print(f"make dev: {problem}", file=sys.stderr)
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
