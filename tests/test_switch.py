"""Moving a running service to another queue: its own feature stays, and what was pending is done on the new one."""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import URL, broker_of
from tests.combinations import Answers
from tests.conftest import Check, Service, Typed
from tests.documents import pages, shell
from tests.support import commit, render, run
from tests.test_copy_update import answers_of, assert_no_conflict
from tests.test_dev import DEADLINE_SECONDS, READY, MakeDev, make_dev, wait_until

ARQ: Answers = {"task_queue": "arq", "broker": "redis"}
CELERY: Answers = {"task_queue": "celery", "broker": "redis"}
RABBITMQ: Answers = {"task_queue": "celery", "broker": "rabbitmq"}
OWN = '''

@celery.task
def mine() -> None:
    """What is not the service's."""
'''
TO_CELERY, TO_RABBITMQ, TO_ARQ, *_ = shell(pages()["docs/how-to/switch-the-queue.md"])


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [(ARQ, TO_CELERY, CELERY), (CELERY, TO_ARQ, ARQ), (ARQ, TO_RABBITMQ, RABBITMQ)],
    ids=["to_celery", "to_arq", "to_rabbitmq"],
)
def test_pending_tasks_are_done_on_the_new_queue(
    service: Service, check: Check, typed: Typed, before: Answers, text: str, after: Answers
) -> None:
    """What the page has one type is typed."""
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

    with broker_of(folder, after) as variables:
        typed(text.replace("make check\n", ""), folder)
        assert answers_of(folder).items() >= after.items()
        assert_no_conflict(folder)
        assert {path: path.read_bytes() for path in feature} == feature
        if after == RABBITMQ:
            assert variables.pop("BROKER_URL") == URL
            assert (folder / ".env").read_text() == f"BROKER_URL={URL}\n"
        with make_dev(folder, **variables) as dev:
            dev.until(READY)
            assert [wait_for_the_end(dev, task)["status"] for task in accepted] == ["completed"] * 5
            assert wait_for_the_end(dev, submit(dev))["status"] == "completed"
            dev.make.send_signal(signal.SIGTERM)
            dev.code()
    if after != RABBITMQ:
        # Types, linters and the feature: the rest is as in a new service, and those run all of their tests.
        said = check(folder, "PYTEST_ADDOPTS=tests/test_invoices.py")
        assert " passed" in said.strip().splitlines()[-1]


def test_what_is_ones_own_in_the_worker_is_a_conflict(template: Path, typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "service"
    render(template, folder, CELERY)
    with (folder / "app" / "worker.py").open("a") as worker:
        worker.write(OWN)
    commit(folder, "Start from the template")
    said = typed(TO_ARQ.replace('args="', 'args="--pretend ').replace("make setup\n", ""), folder, rc=2)
    assert "app/worker.py: resolve the conflict" in said


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
