"""The schedule that the real processes of these tests drive; every run of its task that counts leaves a row."""

from datetime import timedelta

from app.tasks import Schedule
from tests.support.bad_tasks import effect

NAME = "every-second"

Schedule(NAME, timedelta(seconds=1), effect, 0.0)
