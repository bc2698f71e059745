"""The selected combinations of answers, and what each goes through: checks, a start, a real task."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.brokers import broker_of
from tests.combinations import Answers, label, one_for_each_queue, select
from tests.conftest import Check, Progress
from tests.support import commit, find_python, run
from tests.test_dev import DEADLINE_SECONDS, READY, MakeDev, make_dev, wait_until

SELECTED = select(lambda version: find_python(version) is not None)
IN_FULL = SELECTED if os.environ.get("EVERY_CELL_IN_FULL") == "true" else one_for_each_queue(SELECTED)
IN_PART = [answers for answers in SELECTED if answers not in IN_FULL]
"""The others: of their own tests they run what real workers must do."""
CONTRACT, SCHEDULES = "tests/queues/test_contract.py", "tests/scheduling"


def parts(answers: Answers) -> list[str]:
    """Return which of its own tests a service runs, if not all: schedules' only if no other cell has the same."""
    if answers in IN_FULL:
        return []
    drives = {(full["task_queue"], full["scheduler"]) for full in IN_FULL} | {(answers["task_queue"], "none")}
    return [CONTRACT] if (answers["task_queue"], answers["scheduler"]) in drives else [CONTRACT, SCHEDULES]


def treat(folder: Path, answers: Answers, check: Check, progress: Progress) -> None:
    """Let a service pass its checks, start by `make dev`, and finish real tasks."""
    number = f"{SELECTED.index(answers) + 1}/{len(SELECTED)}"
    run("make", "new-feature", "name=invoices", folder=folder)
    commit(folder, "Start from the template, with a feature")

    start = time.monotonic()
    said = check(folder, f"PYTEST_ADDOPTS={' '.join(parts(answers))}")
    summary = said.strip().splitlines()[-1].strip("= ")
    progress(f"{time.monotonic() - start:5.1f} s  {number}  {label(answers)}: make check, {summary}")
    assert " passed" in summary

    start = time.monotonic()
    with broker_of(folder, answers) as variables, make_dev(folder, **variables) as dev:
        dev.until(READY)
        for path in ["/invoices", "/reports"] if answers["include_examples"] else ["/invoices"]:
            assert complete_a_task(dev, path)["status"] == "completed"
        dev.make.send_signal(signal.SIGTERM)
        dev.code()
    progress(f"{time.monotonic() - start:5.1f} s  {number}  {label(answers)}: make dev, a task, SIGTERM")
    assert run("git", "status", "--porcelain", folder=folder) == "", "git ignores what checks and runs leave behind"


def complete_a_task(dev: MakeDev, path: str) -> dict[str, Any]:
    """Submit the example of the API's documentation, follow the task at its Location, and return its last state."""
    with httpx.Client(base_url=dev.url, timeout=DEADLINE_SECONDS) as client:
        api = client.get("/openapi.json").json()
        body = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        example = api["components"]["schemas"][body["$ref"].rpartition("/")[2]]["examples"][0]
        accepted = client.post(path, json=example)
        assert accepted.status_code == 202, accepted.text
        place = accepted.headers["Location"]
        wait_until(lambda: client.get(place).json()["status"] not in {"pending", "running"})
        task: dict[str, Any] = client.get(place).json()
        return task
