"""Schedule: a task that is submitted at given times, declared once in a feature's schedules.py."""

import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ValidationError

from app import features
from app.tasks.definition import Task, registry
from app.tasks.new_task import NewTask, PayloadError
from app.tasks.timetable import Cron, Every, ScheduleError, Timetable

P = TypeVar("P")

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?")
SHORTEST_GRACE = timedelta(minutes=1)
LONGEST_GRACE = timedelta(days=7)
NO_ZONE = (ZoneInfoNotFoundError, ValueError, OSError)
"""What ZoneInfo raises for a name that is none."""


@dataclass(frozen=True)
class Schedule(Generic[P]):
    """Submit `task` with `payload` again and again: Schedule("clean-up", "*/30 * * * *", clean_up).

    `when` is cron text of five fields, in `time_zone`, or an interval of whole seconds, counted from the epoch:
    timedelta(minutes=10). A firing that was missed (everything was down) is caught up within `grace`; of several, the
    last. One that is not `enabled` fires by hand only. Declaring a schedule adds it to `schedules`.

    Raises ScheduleError, which stops the service, for a name that is taken or will not do, times that cannot be, a
    task that is none of this service's, and a payload that does not fit it.
    """

    name: str
    when: str | timedelta
    task: Task[P, Any]
    payload: P | None = None
    _: KW_ONLY
    time_zone: str = "UTC"
    grace: timedelta = timedelta(hours=1)
    enabled: bool = True
    timetable: Timetable = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ScheduleError(f"schedule {self.name!r}: a name is up to 52 lower-case letters, digits and hyphens")
        try:
            object.__setattr__(self, "timetable", self._read_times())
            self._check_task()
        except ScheduleError as error:
            raise ScheduleError(f"schedule {self.name!r}, {self.times}: {error}") from error
        schedules.add(self)

    @property
    def times(self) -> str:
        """When it fires, for people: the cron text, or the interval in seconds."""
        return self.when if isinstance(self.when, str) else f"every {self.when.total_seconds():g} s"

    def new_task(self, **options: Any) -> NewTask:
        """Return its task, about to be recorded; the options are those of NewTask.of."""
        return NewTask.of(self.task, cast(P, self.payload), **options)

    def _read_times(self) -> Timetable:
        if not SHORTEST_GRACE <= self.grace <= LONGEST_GRACE:
            raise ScheduleError(f"the grace cannot be {self.grace}: use a minute to seven days")
        try:
            zone = ZoneInfo(self.time_zone)
        except NO_ZONE:
            raise ScheduleError(f"there is no time zone {self.time_zone!r}: use one like Europe/Berlin") from None
        return Cron(self.when, zone) if isinstance(self.when, str) else Every(self.when)

    def _check_task(self) -> None:
        if not isinstance(self.task, Task):
            raise ScheduleError(f"{self.task!r} is not a task: declare it with @task, and name the function itself")
        if self.task.name not in {task.name for task in registry} or registry[self.task.name] is not self.task:
            raise ScheduleError(f"no worker knows the task {self.task.name}: declare it in a feature's tasks.py")
        try:
            self.new_task()
        except (ValidationError, PayloadError) as error:
            raise ScheduleError(f"its payload does not fit the task {self.task.name}: {error}") from error


class Schedules:
    """The schedules this process knows, by name."""

    def __init__(self) -> None:
        self._schedules: dict[str, Schedule[Any]] = {}

    def add(self, schedule: Schedule[Any]) -> None:
        """Add a schedule. Raises ScheduleError if another one has its name."""
        known = self._schedules.get(schedule.name)
        if known is not None:
            both = f"one of the task {known.task.name}, one of {schedule.task.name}"
            raise ScheduleError(f"two schedules are called {schedule.name!r}, {both}: rename one of them")
        self._schedules[schedule.name] = schedule

    def remove(self, name: str) -> None:
        """Forget a schedule, for tests that declare one of their own."""
        self._schedules.pop(name, None)

    def get(self, name: str) -> Schedule[Any] | None:
        """Return the schedule of that name, if there is one."""
        return self._schedules.get(name)

    def __iter__(self) -> Iterator[Schedule[Any]]:
        return iter(sorted(self._schedules.values(), key=lambda schedule: schedule.name))


schedules = Schedules()
"""All schedules of the service: declaring one adds it."""


def load_schedules() -> None:
    """Import every feature's schedules.py. Raises ScheduleError for a schedule that cannot work."""
    for _ in features.load("schedules"):
        pass
