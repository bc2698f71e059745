"""When a failed attempt is followed by another: the policy as pure functions."""

import math
from typing import Any

import pytest

from app.tasks.retry import RetryPolicy, should_retry


def test_waits_grow_up_to_the_longest() -> None:
    policy = RetryPolicy(first=1, factor=2, longest=10, jitter=0)
    assert [policy.delay(attempt, 0.5) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_a_factor_of_one_keeps_the_wait_the_same() -> None:
    policy = RetryPolicy(first=3, factor=1, longest=10, jitter=0)
    assert [policy.delay(attempt, 0) for attempt in (1, 2, 50)] == [3, 3, 3]


@pytest.mark.parametrize("attempt", [1, 2, 3, 10])
@pytest.mark.parametrize("jitter", [0, 0.3, 1])
def test_jitter_shortens_a_wait_by_at_most_its_part(attempt: int, jitter: float) -> None:
    whole = RetryPolicy(first=1, factor=2, longest=60, jitter=0).delay(attempt, 0)
    policy = RetryPolicy(first=1, factor=2, longest=60, jitter=jitter)
    waits = [policy.delay(attempt, chance) for chance in (0.0, 0.25, 0.5, 0.999)]
    assert waits[0] == whole
    assert waits == sorted(waits, reverse=True)
    assert min(waits) >= whole * (1 - jitter)
    assert len(set(waits)) == (4 if jitter else 1)


def test_the_same_chance_gives_the_same_wait() -> None:
    assert RetryPolicy().delay(3, 0.7) == RetryPolicy().delay(3, 0.7)


@pytest.mark.parametrize("factor", [2, 2.0, 1.5, 1e300])
def test_so_many_attempts_that_the_wait_overflows_get_the_longest(factor: float) -> None:
    assert RetryPolicy(first=0.5, factor=factor, longest=600, jitter=0).delay(100_000, 0) == 600


def test_a_first_wait_of_zero_stays_zero() -> None:
    policy = RetryPolicy(first=0, factor=2.0)
    assert [policy.delay(attempt, 0.5) for attempt in (1, 2, 100_000)] == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"first": 10, "longest": 5},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"first": math.nan},
        {"factor": math.nan},
        {"longest": math.nan},
        {"longest": math.inf},
        {"jitter": math.nan},
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0 <= first <= longest.*factor >= 1.*0 <= jitter <= 1"):
        RetryPolicy(**wrong)


def test_an_error_of_the_kind_is_retried_until_the_attempts_are_used_up() -> None:
    def retried(attempt: int, error: Exception = OSError("away")) -> bool:  # noqa: B008
        return should_retry(error, attempt=attempt, max_attempts=3, retry_on=(OSError,))

    assert [retried(attempt) for attempt in (1, 2, 3, 4)] == [True, True, False, False]
    assert retried(1, ConnectionResetError())  # a subclass
    assert not retried(1, ValueError())


def test_without_kinds_nothing_is_retried() -> None:
    assert not should_retry(Exception(), attempt=1, max_attempts=9, retry_on=())
