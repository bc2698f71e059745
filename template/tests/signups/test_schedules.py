"""The schedule of signups: every half hour what has expired is deleted."""

from datetime import UTC, datetime

from app.signups.tasks import cleanup_expired_tokens
from app.tasks.schedule import load_schedules, schedules


def test_expired_tokens_are_deleted_every_half_hour() -> None:
    load_schedules()
    schedule = schedules.get("cleanup-expired-tokens")
    assert schedule is not None
    assert schedule.task is cleanup_expired_tokens
    assert schedule.enabled
    assert schedule.timetable.next(datetime(2026, 1, 1, 9, 31, tzinfo=UTC)) == datetime(2026, 1, 1, 10, tzinfo=UTC)
