"""`make dev` in rendered services: it brings everything up, copes with what happens, and leaves no process behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests import support

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")

DEADLINE_SECONDS = 300
READY = "Ctrl-C stops everything"
POSTMASTER = ".dev/postgresql/cluster/postmaster.pid"
"""Tells which process it is; its children begin with the same command."""
Service = Callable[..., Path]
SLOW_REVISION = '''"""A revision that takes as long as there is a file."""

import time
from pathlib import Path

revision = "5b8f0c2a9d31"
down_revision = "app_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Wait."""
    while Path("{gate}").exists():
        time.sleep(0.05)


def downgrade() -> None:
    """Do nothing."""
'''
# Makes folders with a file in each, and says how many of them `make dev` would have noticed.
WATCH = """
import asyncio, sys
from pathlib import Path
from scripts.watch import watch_files

async def main(root):
    for name in ("app", "migrations"):
        (root / name).mkdir()
    seen = set()
    watching = asyncio.create_task(watch_files(root, seen.update))
    while not seen:
        (root / "app" / "first.py").touch()
        await asyncio.sleep(0.1)
    folders = [root / "app" / f"feature{number}" for number in range(30)]
    for folder in folders:
        folder.mkdir()
        (folder / "tasks.py").touch()
        await asyncio.sleep(0.01)
    for _ in range(600):
        noticed = [path for path in folders if path in seen or path / "tasks.py" in seen]
        if len(noticed) == len(folders):
            break
        await asyncio.sleep(0.1)
    watching.cancel()
    print(len(noticed))

asyncio.run(main(Path(sys.argv[1])))
"""


class MakeDev:
    """One `make dev`, started the way a terminal starts it: in a process group of its own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{support.free_port()}"
        self.log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.make = subprocess.Popen(
                ["make", "dev"],
                cwd=folder,
                env=os.environ | {"PORT": self.url.rpartition(":")[2], **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text()

    def until(self, text: str, times: int = 1) -> None:
        """Wait until it has said that."""
        wait_until(lambda: self.output().count(text) >= times or self.make.poll() is not None)
        assert self.output().count(text) >= times, self.output()

    def answers(self) -> bool:
        """Tell whether a request succeeds; one that is refused is an error."""
        try:
            return self.get("/health/live").status_code == 200
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return False  # what stops closes the connections that have asked nothing yet

    def get(self, path: str) -> httpx.Response:
        """Return its answer, however long that takes."""
        return httpx.get(f"{self.url}{path}", timeout=DEADLINE_SECONDS)

    def interrupt(self) -> None:
        os.killpg(self.make.pid, signal.SIGINT)

    def code(self) -> int:
        """Wait for its end, and for that of everything it started; return the exit code."""
        code = self.make.wait(DEADLINE_SECONDS)
        wait_until(lambda: not processes_in(self.folder))
        return code

    def complete_a_task(self) -> str:
        """Submit a task as the API's documentation says, see it completed by the worker, and return where it is."""
        with httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS) as client:
            schemas = client.get("/openapi.json").json()["components"]["schemas"]
            accepted = client.post("/reports", json=schemas["ReportRequest"]["examples"][0])
            assert accepted.status_code == 202, accepted.text
            location = accepted.headers["Location"]
            wait_until(lambda: client.get(location).json()["status"] not in {"pending", "running"})
            task = client.get(location).json()
        assert task["status"] == "completed", task
        return location


def processes_in(folder: Path) -> dict[int, str]:
    """Return the processes that work in the folder or its subfolders, and their commands."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").readlink()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended, or it is another user's
            continue
        if place.is_relative_to(folder):
            found[int(process.name)] = command
    return found


def process_of(folder: Path, command: str) -> int:
    """Return the one process whose command contains that."""
    (process,) = (number for number, text in processes_in(folder).items() if command in text)
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it has taken too long"
        time.sleep(0.05)


@contextmanager
def make_dev(folder: Path, **variables: str) -> Iterator[MakeDev]:
    """Start it, and whatever the test does, end what is left of it."""
    dev = MakeDev(folder, **variables)
    try:
        yield dev
    finally:
        for process in processes_in(folder):
            with suppress(ProcessLookupError):  # killing one ends others
                os.kill(process, signal.SIGKILL)
        dev.make.wait()
        print(dev.output())


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_a_day_of_work(service: Service, database: str) -> None:
    folder = service(database=database)
    with make_dev(folder) as dev:
        dev.until(READY)
        assert f"{dev.url}/docs" in dev.output()
        location = dev.complete_a_task()

        assert "runs in this folder already" in support.run("make", "dev", folder=folder, rc=2)

        os.kill(process_of(folder, "app.worker"), signal.SIGKILL)
        dev.until("worker was ended by SIGKILL: waiting for a change")
        main = folder / "app" / "main.py"
        text = main.read_text()
        main.write_text(f"{text}\nsyntax error\n")
        dev.until("changed: app/main.py")
        dev.until("api ended with code 1: waiting for a change")
        main.write_text(text)
        dev.until("restarted")
        dev.complete_a_task()
        if database == "postgresql":
            query = "SELECT id FROM tasks WHERE name = 'reports.build_report';"
            asked = subprocess.run(["make", "psql"], cwd=folder, input=query, capture_output=True, text=True)
            assert "(2 rows)" in asked.stdout, asked

        main.touch()
        wait_until(lambda: dev.answers() and dev.output().count("restarted") == 2)

        dev.interrupt()
        dev.code()
        assert "Traceback" not in dev.output().partition("restarted")[2]

    with make_dev(folder) as dev:
        dev.until(READY)
        assert dev.get(location).json()["status"] == "completed"
        dev.make.terminate()
        dev.code()
        assert "stopping" in dev.output()


def test_side_by_side_and_through_crashes(service: Service) -> None:
    first, second = service(database="postgresql"), service(database="sqlite")
    with make_dev(first) as one, make_dev(second) as two:
        one.until(READY)
        two.until(READY)
        location = one.complete_a_task()
        two.complete_a_task()

        os.kill(process_of(second, "valkey-server"), signal.SIGKILL)
        assert two.code() != 0
        assert "valkey was ended by SIGKILL" in two.output()

        os.kill(process_of(first, "scripts.dev"), signal.SIGKILL)
        assert one.code() != 0

    with make_dev(first) as one:
        one.until(READY)
        assert one.get(location).json()["status"] == "completed"
        os.kill(int((first / POSTMASTER).read_text().split()[0]), signal.SIGKILL)
        assert one.code() != 0
        assert "postgresql was ended by SIGKILL" in one.output()

    with make_dev(first) as one:  # which finds what the killed server could not clear away
        one.until(READY)
        assert one.get(location).json()["status"] == "completed"
        one.make.kill()
        one.code()
        assert "stopping" in one.output()


def test_what_changes_during_a_migration_is_in_the_restart_after_it(service: Service, tmp_path: Path) -> None:
    folder = service(database="sqlite")
    gate = tmp_path / "gate"
    gate.touch()
    with make_dev(folder) as dev:
        dev.until(READY)
        revision = folder / "migrations" / "versions" / "slow.py"
        revision.write_text(SLOW_REVISION.format(gate=gate))
        dev.until("Running upgrade app_0001 -> 5b8f0c2a9d31")
        (folder / "app" / "main.py").touch()
        time.sleep(5)  # nothing says that a change is noticed while it has to wait
        gate.unlink()
        dev.until("restarted")
        said = dev.output()
        assert said.index("changed: app/main.py") < said.index("Shutting down"), "it would be stopped once more"
        dev.interrupt()
        dev.code()


def test_a_new_folder_is_noticed_with_files_that_are_in_it_at_once(service: Service, tmp_path: Path) -> None:
    folder = service(database="sqlite")
    python = folder / ".venv" / "bin" / "python"
    assert support.run("env", "PYTHONPATH=.", python, "-c", WATCH, tmp_path, folder=folder) == "30\n"


def test_other_servers_and_a_taken_port_are_named_when_they_cannot_be_had(service: Service) -> None:
    folder = service(database="sqlite")
    port = support.free_port()
    with make_dev(folder, BROKER_URL=f"redis://127.0.0.1:{port}/0") as dev:
        assert dev.code() != 0
        assert f"BROKER_URL names 127.0.0.1:{port}, and nothing answers there" in dev.output()
    (folder / ".env").write_text(f"BROKER_URL=redis://127.0.0.1:{port}/7\n")
    with make_dev(folder) as dev:
        assert dev.code() != 0
        assert f"BROKER_URL names 127.0.0.1:{port}" in dev.output()
    (folder / ".env").unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        with make_dev(folder, PORT=number) as dev:
            assert dev.code() != 0
            assert f"port {number} is taken" in dev.output()
