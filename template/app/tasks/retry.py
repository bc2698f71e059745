"""When a failed attempt is followed by another: policy as pure functions."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter: waits grow from `first` by `factor` up to `longest`, all in seconds.

    `jitter` is the part of each wait, from 0 to 1, that is left to chance, so that tasks that failed together do not
    come back together (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """

    first: float = 1.0
    factor: float = 2.0
    longest: float = 600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        # Said as what must hold, which no NaN does.
        if not (0 <= self.first <= self.longest < inf and 1 <= self.factor < inf and 0 <= self.jitter <= 1):
            raise ValueError(f"{self}: use 0 <= first <= longest, factor >= 1 and 0 <= jitter <= 1")

    def delay(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1) has failed.

        `chance` is a random number in [0, 1): the same one gives the same wait.
        """
        try:
            wait = min(self.longest, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            wait = self.longest if self.first else 0.0
        return wait * (1 - self.jitter * chance)


def should_retry(
    error: BaseException, *, attempt: int, max_attempts: int, retry_on: tuple[type[BaseException], ...]
) -> bool:
    """Tell whether an attempt that ended with this error is followed by another."""
    return attempt < max_attempts and isinstance(error, retry_on)
