"""Declaring schedules: one that cannot work stops the service with a message that says which and what to do."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import app
from app.factory import create_app
from app.settings import Settings
from app.tasks import Schedule, ScheduleError
from app.tasks.schedule import schedules
from tests.support.processes import ROOT, environment
from tests.support.sample_tasks import add, break_down

Declare = Callable[..., Schedule[Any]]

DOUBLE = """
from app.tasks import Schedule, TaskContext, task

@task(name="sampled.nothing")
async def nothing(context: TaskContext, payload: None) -> None: ...

Schedule("sampled", "0 2 * * *", nothing)
Schedule("sampled", "0 3 * * *", nothing)
"""


def test_a_declared_schedule_is_known(declare: Declare) -> None:
    declare("sum-up", "0 2 * * *", add, [1, 2], time_zone="Europe/Berlin", grace=timedelta(hours=3))
    declare("again", timedelta(minutes=10), break_down, enabled=False)
    assert [(schedule.name, schedule.times) for schedule in schedules] == [
        ("again", "every 600 s"),
        ("sum-up", "0 2 * * *"),
    ]
    assert schedules.get("sum-up") is not None
    assert schedules.get("nothing") is None


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("Sum up", "0 2 * * *", add, [1]), {}, r"schedule 'Sum up': a name is up to 52 lower-case letters"),
        (("x" * 53, "0 2 * * *", add, [1]), {}, r"a name is up to 52"),
        (("sum-up", "0 25 * * *", add, [1]), {}, r"schedule 'sum-up', 0 25 \* \* \*: the hour cannot be '25': use"),
        (("sum-up", timedelta(0), add, [1]), {}, r"schedule 'sum-up', every 0 s: an interval cannot be 0:00:00"),
        (("sum-up", "0 2 * * *", add, [1]), {"time_zone": "Berlin"}, r"no time zone 'Berlin': use one like Europe/"),
        (("sum-up", "0 2 * * *", add, [1]), {"time_zone": "../etc"}, r"no time zone '\.\./etc'"),
        (("sum-up", "0 2 * * *", add, [1]), {"grace": timedelta(seconds=5)}, r"grace cannot be 0:00:05: use a minute"),
        (("sum-up", "0 2 * * *", add, [1]), {"grace": timedelta(days=8)}, r"grace cannot be 8 days"),
        (("sum-up", "0 2 * * *", add.function, [1]), {}, r"is not a task: declare it with @task"),
        (("sum-up", "0 2 * * *", "sample.add", [1]), {}, r"'sample.add' is not a task"),
        (("sum-up", "0 2 * * *", replace(add, name="sample.gone"), [1]), {}, r"no worker knows the task sample\.gone"),
        (("sum-up", "0 2 * * *", replace(add, queue="slow"), [1]), {}, r"no worker knows the task sample\.add"),
        (("sum-up", "0 2 * * *", add), {}, r"its payload does not fit the task sample\.add"),
        (("sum-up", "0 2 * * *", add, ["one"]), {}, r"its payload does not fit the task sample\.add"),
    ],
)
def test_one_that_cannot_work_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str, declare: Declare
) -> None:
    with pytest.raises(ScheduleError, match=message):
        declare(*arguments, **options)
    assert list(schedules) == []


def test_two_of_one_name_are_refused(declare: Declare) -> None:
    declare("sum-up", "0 2 * * *", add, [1])
    with pytest.raises(
        ScheduleError,
        match=r"two schedules are called 'sum-up', one of the task sample\.add, one of sample\.break: rename one",
    ):
        declare("sum-up", "0 3 * * *", break_down)


def test_a_features_schedules_are_found_and_a_wrong_one_stops_the_api(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(app, "__path__", [*app.__path__, str(tmp_path)])
    (tmp_path / "sampled").mkdir()
    (tmp_path / "sampled" / "__init__.py").touch()
    (tmp_path / "sampled" / "schedules.py").write_text(dedent(DOUBLE))
    with pytest.raises(ScheduleError, match=r"two schedules are called 'sampled'"):
        create_app(settings)
    assert [schedule.name for schedule in schedules] == ["sampled"]


def test_a_wrong_one_stops_the_worker(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "sampled").mkdir()
    (tmp_path / "sampled" / "__init__.py").touch()
    (tmp_path / "sampled" / "schedules.py").write_text(dedent(DOUBLE))
    start = f"import app; app.__path__.append({str(tmp_path)!r}); import app.worker"
    stopped = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert stopped.returncode == 1
    assert "two schedules are called 'sampled'" in stopped.stderr.splitlines()[-1]
