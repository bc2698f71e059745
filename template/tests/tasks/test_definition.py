"""@task: what is read from a function, what is refused, and how a service with a wrong task ends."""

import inspect
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from app.settings import Settings
from app.tasks import RetryPolicy, TaskContext, TaskDefinitionError, registry, task
from app.tasks.definition import default_name
from scripts.processes import api_command, worker_command
from tests.support.processes import ROOT, environment
from tests.support.sample_tasks import add

FEATURE = """
from app.tasks import TaskContext, task

@task(name="sampled.send")
async def {function}(context: TaskContext, number: int) -> None: ...
"""


class Invoice(BaseModel):
    """A payload."""

    number: int


def test_the_types_of_payload_and_result_are_read_from_the_function() -> None:
    @task(name="test.send")
    async def send(_context: TaskContext, invoice: Invoice) -> list[int]:
        return [invoice.number]

    assert send.payload.validate_python({"number": "7"}) == Invoice(number=7)
    assert send.result.dump_python([7]) == [7]
    with pytest.raises(ValidationError):
        send.payload.validate_python({"number": "seven"})
    assert send.is_async


def test_a_def_function_is_a_task_too() -> None:
    @task(name="test.count")
    def count(_context: TaskContext, number: int) -> int:
        return number + 1

    assert not count.is_async


def test_the_policy_has_defaults_and_can_be_given() -> None:
    @task
    async def plain(_context: TaskContext, _payload: None) -> None: ...

    @task(name="test.own", queue="slow", max_attempts=7, timeout=9, retry_on=(OSError,), retry=RetryPolicy(first=5))
    async def own(_context: TaskContext, _payload: None) -> None: ...

    assert (plain.queue, plain.max_attempts, plain.timeout) == ("default", 3, 300)
    assert (plain.retry_on, plain.retry) == ((Exception,), RetryPolicy())
    assert (own.name, own.queue, own.max_attempts, own.timeout) == ("test.own", "slow", 7, 9)
    assert (own.retry_on, own.retry.first) == ((OSError,), 5)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("app.invoices.tasks", "invoices.send"),
        ("app.invoices.yearly", "invoices.yearly.send"),
        ("elsewhere.tasks", "elsewhere.send"),
    ],
)
def test_a_task_is_called_after_its_feature_and_its_function(module: str, name: str) -> None:
    async def send() -> None: ...

    send.__module__ = module
    assert default_name(send) == name


def test_a_defined_task_is_in_the_registry() -> None:
    @task(name="test.known")
    async def known(_context: TaskContext, _payload: None) -> None: ...

    assert registry["test.known"] is known
    assert known in list(registry)


def test_two_tasks_of_one_name_are_refused_naming_both() -> None:
    @task(name="test.double")
    async def first(_context: TaskContext, _payload: None) -> None: ...

    with pytest.raises(TaskDefinitionError) as refused:

        @task(name="test.double")
        async def second(_context: TaskContext, _payload: None) -> None: ...

    assert "'test.double'" in str(refused.value)
    assert f"{__name__}.test_two_tasks_of_one_name_are_refused_naming_both.<locals>.first" in str(refused.value)
    assert "<locals>.second" in str(refused.value)
    assert registry["test.double"] is first


async def no_parameters() -> None: ...
async def context_only(context: TaskContext) -> None: ...
async def three_parameters(context: TaskContext, a: int, b: int) -> None: ...
async def keyword_only(context: TaskContext, *, payload: int) -> None: ...
async def any_number(context: TaskContext, *payloads: int) -> None: ...
async def untyped_payload(context: TaskContext, payload) -> None: ...  # type: ignore[no-untyped-def]
async def untyped_result(context: TaskContext, payload: int): ...  # type: ignore[no-untyped-def]
async def not_json(context: TaskContext, payload: TaskContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_parameters, "two parameters"),
        (context_only, "two parameters"),
        (three_parameters, "two parameters"),
        (keyword_only, "two parameters"),
        (any_number, "two parameters"),
        (untyped_payload, "annotate payload"),
        (untyped_result, "annotate return"),
        (not_json, "JSON"),
    ],
)
def test_a_wrong_signature_is_refused_naming_the_function(function: Any, problem: str) -> None:
    with pytest.raises(TaskDefinitionError, match=problem) as refused:
        task(function)
    assert f"{__name__}.{function.__name__}" in str(refused.value)
    assert default_name(function) not in {known.name for known in registry}


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"timeout": 0}, {"timeout": -1}])
def test_a_policy_that_cannot_work_is_refused_naming_the_function(wrong: dict[str, Any]) -> None:
    async def send(_context: TaskContext, _payload: None) -> None: ...

    with pytest.raises(TaskDefinitionError, match="send: max_attempts is at least 1, timeout above 0"):
        task(**wrong)(send)


async def test_a_task_can_be_called_as_the_function_it_is(context: TaskContext) -> None:
    returned = add(context, [1, 2, 3])
    assert inspect.isawaitable(returned)
    assert await returned == 6


@pytest.fixture
def context() -> Any:
    """The task under test does not look at it."""
    return None


@pytest.mark.parametrize("command", [api_command("--port", "0"), worker_command()], ids=["api", "worker"])
def test_the_service_does_not_start_with_two_tasks_of_one_name(
    command: list[str], settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for feature, function in ("sampled_invoices", "send"), ("sampled_letters", "post"):
        folder = tmp_path / "app" / feature
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "tasks.py").write_text(FEATURE.format(function=function))
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    last_line = ended.stderr.strip().splitlines()[-1]
    assert "TaskDefinitionError: two tasks are called 'sampled.send'" in last_line
    assert "app.sampled_invoices.tasks.send and app.sampled_letters.tasks.post" in last_line
