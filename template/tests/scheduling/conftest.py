"""Fixtures for the tests of schedules."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import features
from app.database import Database
from app.settings import Settings
from app.tasks import Schedule, Submitter
from app.tasks.schedule import load_schedules, schedules
from app.tasks.scheduling import Scheduler


@pytest.fixture
def awake(settings: Settings) -> Settings:
    """The test's settings, with schedules that fire."""
    return settings.model_copy(update={"schedules_paused": False})


@pytest.fixture
def declare() -> Iterator[Callable[..., Schedule[Any]]]:
    """Declares a schedule, which is forgotten at the end; those of the features are set aside until then."""
    features.load_tasks()
    load_schedules()
    known = list(schedules)
    for schedule in known:
        schedules.remove(schedule.name)
    yield Schedule
    for schedule in list(schedules):
        schedules.remove(schedule.name)
    for schedule in known:
        schedules.add(schedule)


@pytest.fixture
def scheduler(database: Database, submitter: Submitter) -> Scheduler:
    """Submits what is due, without a driver: `await scheduler.fire_due()`."""
    return Scheduler(database, submitter)
