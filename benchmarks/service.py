"""Measures a generated service as its user meets it: first task, pick-up, its own tests.

    python benchmarks/service.py [--database sqlite]

Prints one line a figure. Everything runs on this machine, on loopback, with the embedded servers.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

TEMPLATE = Path(__file__).resolve().parent.parent
PICK_UPS = 200
FEATURE = {
    "__init__.py": '"""Tasks to measure."""\n',
    "tasks.py": """
import asyncio, os
from app.tasks import TaskContext, task

@task()
async def nothing(context: TaskContext, number: int) -> int:
    return number

@task(timeout=120)
async def long(context: TaskContext, seconds: float) -> float:
    await context.progress(0.5, str(os.getpid()))
    await asyncio.sleep(seconds)
    return seconds
""",
    "router.py": """
from fastapi import APIRouter
from app.measured.tasks import long, nothing
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="/measured")

@router.post("/nothing", status_code=202)
async def submit_nothing(tasks: Tasks) -> TaskAccepted:
    return await tasks.submit(nothing, 1)

@router.post("/long", status_code=202)
async def submit_long(tasks: Tasks) -> TaskAccepted:
    return await tasks.submit(long, 60.0)
""",
}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 120, every: float = 0.01) -> Any:
    """Wait until the condition gives something, looking every so many seconds; return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return found


@contextmanager
def development(folder: Path, port: int, **settings: str) -> Iterator[httpx.Client]:
    """Run `make dev` in a service."""
    environment = os.environ | {"PORT": str(port), **settings}
    log = (folder.parent / "dev.log").open("w+b")
    process = subprocess.Popen(
        ["make", "dev"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    except BaseException:
        log.seek(0)
        print(log.read().decode(errors="replace")[-5000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def answers(client: httpx.Client) -> bool:
    """Tell whether the API answers."""
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def submit(client: httpx.Client, path: str, body: dict[str, Any] | None = None) -> str:
    """Submit a task; return its path."""
    response = client.post(path, json=body)
    response.raise_for_status()
    return response.headers["Location"]


def completed(client: httpx.Client, location: str) -> dict[str, Any] | None:
    """Return the task if it is completed."""
    task: dict[str, Any] = client.get(location).json()
    if task["status"] in {"failed", "cancelled"}:
        raise SystemExit(f"the task ended as {task}")
    return task if task["status"] == "completed" else None


def running_in(client: httpx.Client, location: str) -> int | None:
    """Return the process that runs the task, as it says itself."""
    progress = client.get(location).json()["progress"]
    return int(progress["message"]) if progress else None


def percentiles(seconds: Sequence[float]) -> str:
    """Return the median and the 99th percentile, in milliseconds."""
    p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"


def report_pick_ups(client: httpx.Client, path: str) -> None:
    """Submit tasks one after the other, and print how long each waited for the idle worker."""
    waits = []
    for _ in range(PICK_UPS):
        location = submit(client, path)
        task = wait_for("a task", partial(completed, client, location))
        started, created = (datetime.fromisoformat(task[key]) for key in ("started_at", "created_at"))
        waits.append((started - created).total_seconds())
    report(f"pick-up by an idle worker, {PICK_UPS} tasks", percentiles(waits))


def report(figure: str, value: str) -> None:
    """Print a figure."""
    print(f"{figure:<58} {value}", flush=True)


def measure(database: str, folder: Path) -> None:
    """Measure one service from its generation on."""
    service = folder / "service"
    copy = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", "--data", f"database={database}"]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", *copy, str(TEMPLATE), str(service)], check=True)
    report("copier copy", f"{time.monotonic() - begun:.1f} s")
    with development(service, free_port()) as client:
        wait_for("the API", partial(answers, client), 40)
        location = submit(client, "/reports", {"title": "First", "group_by": "country"})
        wait_for("the first task", lambda: completed(client, location))
    report("from copier copy to the first completed task", f"{time.monotonic() - begun:.1f} s")

    feature = service / "app" / "measured"
    feature.mkdir()
    for name, text in FEATURE.items():
        (feature / name).write_text(text)
    with development(service, free_port()) as client:
        wait_for("the API", partial(answers, client), 40)
        wait_for("a first task", lambda: completed(client, location))
        report_pick_ups(client, "/measured/nothing")

    subprocess.run(["rm", "-r", str(feature)], check=True)
    begun = time.monotonic()
    subprocess.run(["make", "test"], cwd=service, check=True, stdout=subprocess.DEVNULL)
    report("make test", f"{time.monotonic() - begun:.1f} s")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    database = parser.parse_args().database
    print(f"{database}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="measured-") as folder:
        measure(database, Path(folder))


if __name__ == "__main__":
    main()
