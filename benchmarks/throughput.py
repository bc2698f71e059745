"""Compares a generated service with its bare queue in the same run: 202s a second, and no-op tasks a second. Then it
measures how soon an idle worker picks a task up.

    python benchmarks/throughput.py [--queue celery] [--broker rabbitmq] [--pool threads] [--database sqlite]

One API process, one worker, 50 connections, the embedded servers with their normal durability, all on loopback. The
bare side is a route that awaits `enqueue_job`, or calls `.delay()`, and a worker with the same settings; it records
nothing. RabbitMQ is the one that BROKER_URL names.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from bare import TEXTS  # these are beside this file
from service import TEMPLATE, answers, completed, free_port, report, report_pick_ups, submit, wait_for

CONNECTIONS = 50
PROCESSES = 2
THREADS = 50
FEATURE = {
    "app/measured/__init__.py": '"""Tasks to measure."""\n',
    "app/measured/tasks.py": """
from app.tasks import TaskContext, task

@task()
async def nothing(context: TaskContext, number: int) -> int:
    return number
""",
    "app/measured/router.py": """
from fastapi import APIRouter
from app.measured.tasks import nothing
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="/measured")

@router.post("", status_code=202)
async def submit(tasks: Tasks) -> TaskAccepted:
    return await tasks.submit(nothing, 1)
""",
}
SERVERS = """
import json, os, sys
from contextlib import ExitStack
from pathlib import Path
from scripts.servers import embedded_servers
from scripts.servers.process import running
with ExitStack() as stack:
    servers = [s for s in embedded_servers(Path(sys.argv[1])) if s.variable not in os.environ]
    print(json.dumps({s.variable: stack.enter_context(running(s)) for s in servers}), flush=True)
    sys.stdin.read()
"""


class Service:
    """A generated service with its servers, and the bare one beside it."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.folder = folder
        self.bin = folder / ".venv" / "bin"
        self.environment = os.environ | urls | {"LOG_LEVEL": "WARNING"}

    def run(self, *command: str) -> None:
        """Run a command to its end."""
        subprocess.run([self.bin / command[0], *command[1:]], cwd=self.folder, env=self.environment, check=True)

    @contextmanager
    def process(self, *command: str) -> Iterator[None]:
        """Run a command for as long as the block."""
        log = subprocess.DEVNULL
        program = [str(self.bin / command[0]), *command[1:]]
        process = subprocess.Popen(program, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """Run the service's embedded servers; give their URLs."""
    command = [str(folder / ".venv/bin/python"), "-c", SERVERS, str(folder / ".measured")]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.stdin.close()
    process.wait(60)


async def post(port: int, count: int) -> float:
    """Send so many POSTs over 50 connections; return how many were answered with 202 in a second."""
    request = b"POST /measured HTTP/1.1\r\nHost: measured\r\nContent-Length: 0\r\n\r\n"
    left = count

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 202"):
                raise SystemExit(f"not a 202: {head!r}")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return count / (time.monotonic() - begun)


def worker_command(queue: str, pool: str, is_bare: bool) -> list[str]:
    """Return what runs one worker."""
    module = "bare" if is_bare else "app.worker"
    if queue == "arq":
        return ["arq", f"{module}.WorkerSettings"]
    width = THREADS if pool == "threads" else PROCESSES
    return ["celery", "--quiet", "-A", f"{module}:celery", "worker", "--pool", pool, "--concurrency", str(width)]


def measure(service: Service, api: str, worker: list[str], count: int) -> tuple[float, float]:
    """Return 202s a second, and tasks a second from the first task's start to the last one's end."""
    port = free_port()
    with (
        service.process("uvicorn", api, "--port", str(port), "--no-access-log", "--log-level", "warning"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        wait_for(api, lambda: answers(client))
        asyncio.run(post(port, 200))
        accepted = asyncio.run(post(port, count))

        def left() -> int:
            if api.startswith("bare"):
                return int(client.get("/left").text)
            return sum(len(client.get(f"/tasks?limit=1&status={s}").json()["items"]) for s in ("pending", "running"))

        def started() -> bool:
            if api.startswith("bare"):
                return left() < count + 200
            return bool(client.get("/tasks?limit=1&status=completed").json()["items"])

        with service.process(*worker):
            wait_for("the first task", started)
            begun = time.monotonic()
            wait_for("the last task", lambda: left() == 0, 300, every=0.2)
            return accepted, count / (time.monotonic() - begun)


def measure_pick_ups(service: Service, worker: list[str]) -> None:
    """Print how soon an idle worker picks a task up."""
    port = free_port()
    with (
        service.process("uvicorn", "app.main:app", "--port", str(port), "--no-access-log", "--log-level", "warning"),
        service.process(*worker),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        wait_for("the API", lambda: answers(client))
        first = submit(client, "/measured")
        wait_for("the worker", lambda: completed(client, first))
        report_pick_ups(client, "/measured")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--queue", choices=["arq", "celery"], default="arq")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--pool", choices=["prefork", "threads"], default="prefork")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    side = f"{arguments.queue} {arguments.pool if arguments.queue == 'celery' else ''}"
    print(f"{side} {arguments.broker} {arguments.database}, {os.cpu_count()} cores, {arguments.tasks} tasks")
    with tempfile.TemporaryDirectory(prefix="measured-") as place:
        folder = Path(place) / "service"
        given = {
            "task_queue": arguments.queue,
            "broker": arguments.broker,
            "database": arguments.database,
            "scheduler": "none",
            "include_examples": "false",
        }
        options = [option for name, value in given.items() for option in ("-d", f"{name}={value}")]
        copy = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", *options]
        subprocess.run([sys.executable, "-m", *copy, TEMPLATE, folder], check=True)
        for name, text in {**FEATURE, "bare.py": TEXTS[arguments.queue]}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        subprocess.run(["make", "--silent", "setup"], cwd=folder, check=True)
        with servers(folder) as urls:
            service = Service(folder, urls)
            service.run("alembic", "upgrade", "heads")
            figures: dict[str, list[tuple[float, float]]] = {"bare": [], "durable": []}
            for _ in range(arguments.rounds):
                for name, api in {"bare": "bare:app", "durable": "app.main:app"}.items():
                    worker = worker_command(arguments.queue, arguments.pool, name == "bare")
                    figures[name].append(measure(service, api, worker, arguments.tasks))
            measure_pick_ups(service, worker_command(arguments.queue, arguments.pool, is_bare=False))
        for index, what in enumerate(["202s a second, one API process", "no-op tasks a second, one worker"]):
            bare, ours = (statistics.median(pair[index] for pair in figures[side]) for side in ("bare", "durable"))
            report(what, f"durable {ours:.0f}, bare {arguments.queue} {bare:.0f}, ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main()
