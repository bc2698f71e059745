"""When a schedule fires: cron text, time zones, days of 23 and 25 hours, intervals, and what is owed after a while."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.tasks.timetable import EPOCH, FIELDS, Cron, Every, ScheduleError, Timetable, find_due

BERLIN = "Europe/Berlin"
HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""A Friday."""


def cron(text: str, zone: str = "UTC") -> Cron:
    """Return the times of a cron text."""
    return Cron(text, ZoneInfo(zone))


def firings(timetable: Timetable, start: str, end: str) -> list[str]:
    """Return the firings after one moment and up to another, as UTC without the date's year."""
    moment, found = at(start), []
    while (moment := timetable.next(moment)) <= at(end):
        found.append(f"{moment:%m-%d %H:%M}")
    return found


def at(text: str) -> datetime:
    """Return a moment, given in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/30 * * * *", "2026-11-20 12:30"),
        ("0 12 * * *", "2026-11-21 12:00"),
        ("5-10/5,40 13 * * *", "2026-11-20 13:05"),
        ("0 9 * * mon-fri", "2026-11-23 09:00"),
        ("0 9 * * MON,wed", "2026-11-23 09:00"),
        ("0 0 * * 0", "2026-11-22 00:00"),
        ("0 0 * * 7", "2026-11-22 00:00"),
        ("0 0 * * 5-7", "2026-11-21 00:00"),
        ("0 0 1 jan *", "2027-01-01 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 13 * FRI", "2026-11-27 00:00"),  # the 13th, and every Friday
        ("0 0 */2 * FRI", "2026-11-27 00:00"),  # a star: Fridays with an odd date
    ],
)
def test_the_next_firing(text: str, expected: str) -> None:
    assert cron(text).next(NOON) == at(expected)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("60 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("5/15 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("x * * * *", "minute"),
        ("² * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 18-8 * * *", "hour"),
        ("0 0 0 * *", "day of the month"),
        ("0 0 L * *", "day of the month"),
        ("0 0 ? * *", "day of the month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * MON *", "month"),
        ("0 0 * * 8", "day of the week"),
        ("0 0 * * MON#1", "day of the week"),
        ("0 0 * * FRI-MON", "day of the week"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_be(text: str, field: str) -> None:
    wrong = text.upper().split()[[known.name for known in FIELDS].index(field)].split(",")
    with pytest.raises(ScheduleError, match=rf"^the {field} cannot be ") as refused:
        cron(text)
    assert any(repr(part) in str(refused.value) for part in wrong)
    assert "use " in str(refused.value)


@pytest.mark.parametrize("text", ["", "* * * *", "0 0 * * * *", "@daily"])
def test_other_than_five_fields_are_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"fields, not five: minute, hour, day of the month, month, day of the"):
        cron(text)


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30 FEB *", "0 0 31 4,6,9,11 *"])
def test_a_text_that_never_fires_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="never fires"):
        cron(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Clocks go from 02:00 to 03:00 on March 29, which is 01:00 in UTC.
        ("30 2 * * *", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("*/15 2 * * *", [*(f"03-28 01:{m}" for m in ("00", 15, 30, 45)), "03-29 01:00", "03-30 00:00", "03-30 00:15"]),
        ("0,30 2-3 29 3 *", ["03-29 01:00", "03-29 01:30"]),
        ("0 4 * * *", ["03-28 03:00", "03-29 02:00"]),
    ],
)
def test_a_local_time_that_does_not_exist_fires_once_after_the_gap(text: str, expected: list[str]) -> None:
    assert firings(cron(text, BERLIN), "2026-03-28 00:00", "2026-03-30 00:30")[: len(expected)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Clocks go from 03:00 back to 02:00 on October 25, which is 01:00 in UTC.
        ("30 2 * * *", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("*/30 2 25 10 *", ["10-25 00:00", "10-25 00:30"]),
        ("0 1-4 25 10 *", ["10-24 23:00", "10-25 00:00", "10-25 02:00", "10-25 03:00"]),
    ],
)
def test_a_local_time_that_happens_twice_fires_the_first_time(text: str, expected: list[str]) -> None:
    assert firings(cron(text, BERLIN), "2026-10-24 00:00", "2026-10-26 02:00")[: len(expected)] == expected


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("text", ["*/30 * * * *", "0,30 0-23 * * *"])
def test_what_fires_in_every_hour_goes_on_as_time_does(day: str, text: str) -> None:
    timetable = cron(text, BERLIN)
    moment = at(f"{day} 00:00") - HOUR
    for _ in range(12):
        assert timetable.next(moment) - moment == timedelta(minutes=30)
        moment = timetable.next(moment)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=5),
    hours=st.sets(st.integers(0, 5), min_size=1, max_size=5),
    start=st.integers(-300, 300),
    zone_and_change=st.sampled_from(
        [
            (BERLIN, "2026-03-29 01:00"),
            (BERLIN, "2026-10-25 01:00"),
            ("America/New_York", "2026-11-01 06:00"),
            ("Australia/Lord_Howe", "2026-04-04 15:00"),  # half an hour
            ("Australia/Lord_Howe", "2026-10-03 15:30"),
            ("America/Havana", "2026-03-08 05:00"),  # at midnight
            ("Asia/Kathmandu", "2026-06-01 00:00"),  # never
        ]
    ),
)
def test_it_is_what_the_rule_says_minute_by_minute(
    minutes: set[int], hours: set[int], start: int, zone_and_change: tuple[str, str]
) -> None:
    zone, change = ZoneInfo(zone_and_change[0]), at(zone_and_change[1])
    timetable = Cron(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *", zone)
    after = change + timedelta(minutes=start)
    day = after.astimezone(zone).replace(tzinfo=None, hour=0, minute=0)
    wanted = set()
    for offset in range(-1, 3):
        for hour in hours:
            for minute in minutes:
                local = day + timedelta(days=offset, hours=hour, minutes=minute)
                while (moment := local.replace(tzinfo=zone).astimezone(UTC)).astimezone(zone).replace(
                    tzinfo=None
                ) != local:  # it does not exist
                    local += timedelta(minutes=1)
                wanted.add(moment)
    coming = sorted(moment for moment in wanted if moment > after)
    assert timetable.next(after) == coming[0]
    until = after + timedelta(hours=7)
    past = [moment for moment in coming if moment <= until]
    assert timetable.latest(after, until) == (past[-1] if past else None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    interval=st.integers(1, 100_000),
    moments=st.lists(st.integers(0, 4_000_000_000_000_000), min_size=2, max_size=2).map(sorted),
)
def test_intervals_are_counted_from_the_epoch(interval: int, moments: list[int]) -> None:
    every = Every(timedelta(seconds=interval))
    after, until = (EPOCH + timedelta(microseconds=moment) for moment in moments)
    assert (every.next(after) - EPOCH) % every.interval == timedelta()
    assert timedelta() < every.next(after) - after <= every.interval
    latest = every.latest(after, until)
    assert (latest is None) == (every.next(after) > until)
    if latest is not None:
        assert every.next(latest) > until >= latest > after


@pytest.mark.parametrize("interval", [timedelta(), -HOUR, timedelta(seconds=1.5), timedelta(days=400)])
def test_other_intervals_are_refused(interval: timedelta) -> None:
    with pytest.raises(ScheduleError, match="use whole seconds"):
        Every(interval)


def owed(timetable: Timetable, last: str, now: str, grace: timedelta = HOUR, early: int = 0) -> str | None:
    """Return which firing is owed."""
    early_by = timedelta(seconds=early)
    moment = find_due(timetable, last=at(last), now=at(now), grace=grace, early=early_by)
    return None if moment is None else f"{moment:%d %H:%M}"


def test_nothing_is_owed_before_its_time_and_once_it_is_done() -> None:
    half_hours = cron("*/30 * * * *")
    assert owed(half_hours, "2026-11-20 12:00", "2026-11-20 12:29:59.999999") is None
    assert owed(half_hours, "2026-11-20 12:00", "2026-11-20 12:30") == "20 12:30"
    assert owed(half_hours, "2026-11-20 12:30", "2026-11-20 12:30") is None


def test_of_what_was_missed_the_last_is_owed_within_its_grace() -> None:
    half_hours, nightly = cron("*/30 * * * *"), cron("0 2 * * *")
    assert owed(half_hours, "2026-11-01 00:00", "2026-11-20 12:59") == "20 12:30"
    assert owed(nightly, "2026-11-19 02:00", "2026-11-20 02:59") == "20 02:00"
    assert owed(nightly, "2026-11-19 02:00", "2026-11-20 03:00") is None
    assert owed(nightly, "2026-11-01 02:00", "2026-11-20 12:00", timedelta(days=1)) == "20 02:00"
    assert owed(Every(timedelta(seconds=1)), "2026-11-01 02:00", "2026-11-20 12:00:07") == "20 12:00"


def test_a_clock_that_is_set_back_owes_nothing_twice() -> None:
    half_hours = cron("*/30 * * * *")
    for now in "2026-11-20 11:31", "2026-11-20 12:00", "2026-11-20 12:29":
        assert owed(half_hours, "2026-11-20 12:00", now) is None
    assert owed(half_hours, "2026-11-20 12:00", "2026-11-20 12:30") == "20 12:30"


def test_a_clock_that_jumps_ahead_owes_one_firing() -> None:
    timetable, now = cron("* * * * *"), NOON
    last, fired = now, []
    for jump in (timedelta(minutes=1), timedelta(days=3), timedelta(), timedelta(seconds=59), timedelta(hours=-2)):
        now += jump
        if moment := find_due(timetable, last=last, now=now, grace=HOUR):
            fired.append(moment)
            last = moment
    assert fired == [NOON + timedelta(minutes=1), NOON + timedelta(days=3, minutes=1)]
    assert all(earlier < later for earlier, later in pairwise(fired))


def test_one_that_comes_soon_may_be_taken_early_once() -> None:
    nightly = cron("0 2 * * *")
    assert owed(nightly, "2026-11-19 02:00", "2026-11-20 01:59:55", early=10) == "20 02:00"
    assert owed(nightly, "2026-11-19 02:00", "2026-11-20 01:59:45", early=10) is None
    assert owed(nightly, "2026-11-20 02:00", "2026-11-20 01:59:55", early=10) is None
    assert owed(nightly, "2026-11-20 02:00", "2026-11-20 02:00:05", early=10) is None
    assert owed(cron("* * * * *"), "2026-11-20 02:00", "2026-11-20 02:00:52", early=10) is None
    assert owed(cron("* * * * *"), "2026-11-20 02:00", "2026-11-20 02:00:55", early=10) == "20 02:01"
