"""What `make schedules` prints of a rendered service: manifests that are YAML, lines that are a crontab's."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Service
from tests.support import run

DECLARED = """\
from datetime import timedelta

from app.signups.tasks import cleanup_expired_tokens
from app.tasks import Schedule

Schedule("nightly", "30 2 * * 7", cleanup_expired_tokens, time_zone="Europe/Berlin", grace=timedelta(hours=3))
Schedule("often", timedelta(seconds=90), cleanup_expired_tokens, enabled=False)
"""
PATHS = {"cleanup-expired-tokens/run", "nightly/run", "often/run", "run-due"}


@pytest.fixture
def folder(service: Service) -> Path:
    """A service whose schedules are driven from outside, with two more than the example's."""
    made = service(scheduler="external")
    run("make", "new-feature", "name=invoices", folder=made)
    (made / "app" / "invoices" / "schedules.py").write_text(DECLARED)
    return made


def test_what_it_prints_calls_every_schedule_with_a_token_from_elsewhere(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    kubernetes, crontab = re.findall(r"^ +(make schedules format=\w+)", readme, re.MULTILINE)
    said = run(*kubernetes.split(), folder=folder)
    jobs: dict[str, dict[str, Any]] = {}
    for job in filter(None, yaml.safe_load_all(said)):
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        assert len(job["metadata"]["name"]) <= 52
        [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        [token] = [variable for variable in container["env"] if variable["name"] == "INTERNAL_TOKEN"]
        assert token.keys() == {"name", "valueFrom"}
        assert token["valueFrom"]["secretKeyRef"] == {"name": "my-service", "key": "INTERNAL_TOKEN"}
        jobs[called(container["args"][0])] = job["spec"]
    assert jobs.keys() == PATHS
    assert {name: (job["schedule"], job["timeZone"], job["suspend"]) for name, job in jobs.items()} == {
        "cleanup-expired-tokens/run": ("*/30 * * * *", "UTC", False),
        "nightly/run": ("30 2 * * 0", "Europe/Berlin", False),
        "often/run": ("* * * * *", "UTC", True),
        "run-due": ("*/5 * * * *", "UTC", False),
    }
    assert jobs["nightly/run"]["startingDeadlineSeconds"] == 3 * 3600

    said = run(*crontab.split(), folder=folder)
    lines = [line for line in said.splitlines() if "curl" in line]
    assert {called(line) for line in lines} == PATHS
    for line in lines:
        assert re.match(r"(# not enabled: )?(\S+ ){5}\. ", line)
        assert "Bearer $INTERNAL_TOKEN" in line

    assert "format=crontab" in run("make", "schedules", folder=folder, rc=2)


def test_a_fresh_checkout_prints_nothing_else(folder: Path) -> None:
    """The output goes to kubectl; that the dependencies are being installed is said beside it."""
    shutil.rmtree(folder / ".venv")
    command = ["make", "schedules", "format=kubernetes"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "Installing the dependencies" in done.stderr
    assert done.stdout.startswith("---\n")


def called(command: str) -> str:
    """Return which of the internal paths a command calls."""
    [path] = re.findall(r"\$API_URL/internal/schedules/([a-z0-9/-]+)", command)
    return str(path)
