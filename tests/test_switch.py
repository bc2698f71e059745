"""Moving a running service to another queue: its own feature stays, and what was pending is done on the new one."""

import signal
from typing import Any

import httpx
import pytest

from tests.combinations import Answers, options
from tests.conftest import Check, Service
from tests.support import commit, run, run_copier
from tests.test_copy_update import assert_no_conflict
from tests.test_dev import DEADLINE_SECONDS, READY, MakeDev, make_dev, wait_until

ARQ: Answers = {"task_queue": "arq", "broker": "redis"}
CELERY: Answers = {"task_queue": "celery", "broker": "redis"}


@pytest.mark.parametrize(("before", "after"), [(ARQ, CELERY), (CELERY, ARQ)], ids=["to_celery", "to_arq"])
def test_pending_tasks_are_done_on_the_new_queue(
    service: Service, check: Check, before: Answers, after: Answers
) -> None:
    folder = service(**before)
    run("make", "new-feature", "name=invoices", folder=folder)
    feature = {path: path.read_bytes() for path in (folder / "app" / "invoices").glob("*.py")}
    commit(folder, "Add invoices")

    with make_dev(folder, WORKER_QUEUES="nobody-sends-there") as dev:
        dev.until(READY)
        accepted = [submit(dev) for _ in range(5)]
        assert {task["status"] for task in accepted} == {"pending"}
        dev.make.send_signal(signal.SIGTERM)
        dev.code()

    run_copier("update", "--defaults", "--vcs-ref", ":current:", *options(after), folder=folder)
    assert_no_conflict(folder)
    assert {path: path.read_bytes() for path in feature} == feature
    run("make", "setup", folder=folder)
    with make_dev(folder) as dev:
        dev.until(READY)
        assert [wait_for_the_end(dev, task)["status"] for task in accepted] == ["completed"] * 5
        assert wait_for_the_end(dev, submit(dev))["status"] == "completed"
        dev.make.send_signal(signal.SIGTERM)
        dev.code()
    # What depends on the queue, as both services are among those that run all of their tests anyway.
    said = check(folder, "PYTEST_ADDOPTS=tests/queues tests/test_invoices.py")
    assert " passed" in said.strip().splitlines()[-1]


def submit(dev: MakeDev) -> dict[str, Any]:
    """Submit the new feature's task, and return it as it was accepted."""
    schemas = httpx.get(f"{dev.url}/openapi.json", timeout=DEADLINE_SECONDS).json()["components"]["schemas"]
    name = next(name for name in schemas if name.startswith("Invoices") and "examples" in schemas[name])
    answer = httpx.post(f"{dev.url}/invoices", json=schemas[name]["examples"][0], timeout=DEADLINE_SECONDS)
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


def wait_for_the_end(dev: MakeDev, task: dict[str, Any]) -> dict[str, Any]:
    """Return the task once it has ended."""
    seen: list[dict[str, Any]] = []

    def has_ended() -> bool:
        seen.append(httpx.get(f"{dev.url}/tasks/{task['id']}", timeout=DEADLINE_SECONDS).json())
        return seen[-1]["status"] not in {"pending", "running"}

    wait_until(has_ended)
    return seen[-1]
