"""Runs as the heartbeat sees them."""

import time

from app.tasks.store import Pair


class BeatingRun:
    """A run that notes what the heartbeat tells it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.renewed_at = time.monotonic()
        self.is_lost = False
        self.expired_at = 0.0

    def lose(self) -> None:
        """Note it."""
        self.is_lost = True

    def expire(self) -> None:
        """Note when."""
        self.expired_at = self.expired_at or time.monotonic()

    def ask_to_cancel(self) -> None:
        """Do nothing."""
