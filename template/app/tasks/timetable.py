"""When a schedule fires: by cron text in a time zone, or at a fixed interval. Arithmetic only; moments are in UTC."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
TERM = re.compile(r"(\*|(?P<first>[A-Z0-9]+)(-(?P<last>[A-Z0-9]+))?)(/(?P<step>[0-9]+))?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=366)


class ScheduleError(Exception):
    """A schedule is declared in a way that cannot work; the message says which and what to do."""


class Timetable(Protocol):
    """The moments at which a schedule fires; each is a whole second."""

    def next(self, after: datetime) -> datetime:
        """Return the first one after a moment."""

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last one that is after one moment and not after the other, or None if there is none."""


@dataclass(frozen=True)
class Field:
    """One of the five fields of a cron text."""

    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()

    def parse(self, text: str) -> list[int]:
        """Return the values it stands for, in order. Raises ScheduleError for what it cannot be."""
        found: set[int] = set()
        for part in text.split(","):
            term = TERM.fullmatch(part)
            if term is None:
                raise self._error(part)
            first, last = self.least, self.most
            if term["first"] is not None:
                first = self._value(term["first"], part)
                last = first if term["last"] is None else self._value(term["last"], part)
                if term["step"] is not None and term["last"] is None:
                    raise self._error(part)
            step = int(term["step"] or 1)
            if step == 0 or first > last:
                raise self._error(part)
            found.update(range(first, last + 1, step))
        return sorted(found)

    def _value(self, text: str, part: str) -> int:
        if text in self.words:
            return self.words.index(text) + self.least
        if not text.isdecimal() or not self.least <= int(text) <= self.most:
            raise self._error(part)
        return int(text)

    def _error(self, part: str) -> ScheduleError:
        words = f" or {self.words[0]} to {self.words[-1]}" if self.words else ""
        low, high = self.least, self.most
        use = f"use {low} to {high}{words}, *, ranges ({low}-{high}), steps (*/2, {low}-{high}/2) or a list of these"
        return ScheduleError(f"the {self.name} cannot be {part!r}: {use}")


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of the week", 0, 7, DAYS),
)


class Cron:
    """Five fields (minute, hour, day of the month, month, day of the week) in a time zone.

    When clocks go forward, a local time that does not exist fires once, right after the gap. When they go back, a local
    time that happens twice fires the first time. A text whose hour is every hour goes on through both as time does:
    */30 stays half an hour. If both days are given, either of them will do, as with cron.

    Raises ScheduleError for any other text, and for one that never fires.
    """

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        parts = text.upper().split()
        if len(parts) != len(FIELDS):
            names = ", ".join(field.name for field in FIELDS)
            raise ScheduleError(f"it has {len(parts)} fields, not five: {names}; */30 * * * * is every half hour")
        values = [field.parse(part) for field, part in zip(FIELDS, parts, strict=True)]
        # The library takes a field that starts with a star for one that goes by elapsed time, as old crons do. Only
        # "every hour" is one here: */15 in the hour that is left out is not to be left out with it.
        minutes, hours = (",".join(map(str, numbers)) for numbers in values[:2])
        every_hour = len(values[1]) == 24
        self.text = text
        self.zone = zone
        self._text = " ".join([minutes, "*" if every_hour else hours, *parts[2:]])
        try:
            if next(CronSim(self._text, datetime(2000, 1, 1)), None) is None:  # noqa: DTZ001 (any will do)
                raise CronSimError
        except CronSimError:
            raise ScheduleError("it never fires: no month of these has such a day") from None

    def next(self, after: datetime) -> datetime:
        """Return the first firing after a moment."""
        return next(self._from(after))

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last firing that is after one moment and not after the other."""
        found = None
        for moment in self._from(after):
            if moment > until:
                break
            found = moment
        return found

    def _from(self, after: datetime) -> Iterator[datetime]:
        for local in CronSim(self._text, after.astimezone(self.zone)):
            moment = local.astimezone(UTC)
            if moment > after:  # in an hour that happens twice, what is later on the clock may be earlier
                yield moment


class Every:
    """A fixed interval, counted from the epoch, so that every process has the same moments.

    Raises ScheduleError if it is not a whole number of seconds, from one to those of a year.
    """

    def __init__(self, interval: timedelta) -> None:
        if interval % SHORTEST or not SHORTEST <= interval <= LONGEST:
            raise ScheduleError(f"an interval cannot be {interval}: use whole seconds, from one to those of a year")
        self.interval = interval

    def next(self, after: datetime) -> datetime:
        """Return the first firing after a moment."""
        return EPOCH + ((after - EPOCH) // self.interval + 1) * self.interval

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last firing that is after one moment and not after the other."""
        moment = EPOCH + (until - EPOCH) // self.interval * self.interval
        return moment if moment > after else None


def find_due(
    timetable: Timetable, *, last: datetime, now: datetime, grace: timedelta, early: timedelta = timedelta()
) -> datetime | None:
    """Return the firing that is owed now, or None.

    `last` is the firing that was the last. Of those missed since, only the last one counts, and only for as long as
    `grace`. If none was missed, one that comes within `early` will do, or within a tenth of the time from it to the
    next. A clock that was set back owes nothing until it has passed `last` again.
    """
    missed = timetable.latest(max(last, now - grace), now)
    if missed is None and early:
        upcoming = timetable.next(max(last, now))
        early = min(early, (timetable.next(upcoming) - upcoming) / 10)
        return upcoming if upcoming - now <= early else None
    return missed
