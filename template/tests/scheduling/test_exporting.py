"""`make schedules`: what calls the API when schedules are due, with the token from elsewhere."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.tasks import Schedule
from app.tasks.schedule import schedules
from scripts.schedules import CATCH_UP, cron_text, job_name, to_crontab, to_kubernetes
from tests.support.processes import ROOT
from tests.support.sample_tasks import add

Declare = Callable[..., Schedule[Any]]


@pytest.fixture(autouse=True)
def _declared(declare: Declare) -> None:
    declare("nightly", "0 2 * * mon-fri", add, [1], time_zone="Europe/Berlin", grace=timedelta(hours=3))
    declare("often", timedelta(seconds=90), add, [1])
    declare("off", "0 3 * * *", add, [1], enabled=False)


def test_a_crontab_has_a_line_for_each_schedule_and_one_to_catch_up() -> None:
    lines = to_crontab("orders", schedules).splitlines()
    calls = {line.split("/internal/schedules/")[1].split('"')[0]: line for line in lines if "curl" in line}
    assert list(calls) == ["nightly/run", "off/run", "often/run", "run-due"]
    assert calls["nightly/run"].startswith("0 2 * * MON-FRI . ")
    assert calls["often/run"].startswith("* * * * * . ")
    assert calls["off/run"].startswith("# not enabled: 0 3 * * * . ")
    assert calls["run-due"].startswith(f"{CATCH_UP} . ")
    zones = [line for line in lines if line.startswith("CRON_TZ=")]
    assert zones == ["CRON_TZ=Europe/Berlin", "CRON_TZ=UTC"]
    for line in calls.values():
        assert '"Authorization: Bearer $INTERNAL_TOKEN" | curl' in line
        assert "%" not in line, "cron would end the line there"


def test_a_cronjob_for_each_schedule_and_one_to_catch_up() -> None:
    jobs = to_kubernetes("orders", schedules).split("---\n")[1:]
    assert [job.splitlines()[4] for job in jobs] == [
        f"  name: orders-{name}" for name in ("nightly", "off", "often", "run-due")
    ]
    for text in (
        'schedule: "0 2 * * MON-FRI"',
        'timeZone: "Europe/Berlin"',
        "concurrencyPolicy: Forbid",
        "startingDeadlineSeconds: 10800",
        "suspend: false",
        "secretKeyRef:",
        '"$API_URL/internal/schedules/nightly/run"',
    ):
        assert text in jobs[0]
    assert "suspend: true" in jobs[1]


def test_sunday_is_written_as_all_understand_it(declare: Declare) -> None:
    assert cron_text(declare("a", "0 0 * * 5-7", add, [1])) == "0 0 * * 0,5,6"
    assert cron_text(declare("b", "0 0 * * 7", add, [1])) == "0 0 * * 0"
    assert cron_text(declare("c", "0 0 17 */7 sun", add, [1])) == "0 0 17 */7 SUN"


def test_long_names_are_shortened_and_stay_apart() -> None:
    names = {job_name(f"orders-{'x' * 50}{number}") for number in range(10)}
    assert len(names) == 10
    assert all(len(name) <= 52 for name in names)
    assert job_name("orders-nightly") == "orders-nightly"


@pytest.mark.parametrize(("arguments", "code"), [(["crontab"], 0), (["kubernetes"], 0), ([], 1), (["yaml"], 1)])
def test_the_command_needs_no_settings_and_says_which_formats_there_are(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "scripts.schedules", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    if code == 0:
        assert "/internal/schedules/run-due" in done.stdout
    else:
        assert "format=crontab, or format=kubernetes" in done.stderr
