"""Every SQL statement that moves a task record from one state to the next.

Each function runs in the caller's transaction. Time is the database's. A statement over several rows locks them in the
order of their ids, skips those that somebody else has locked, and repeats its conditions, so that concurrent workers
neither deadlock nor undo each other's work.
"""

from app.tasks.store.accepting import add, add_all, count_pending, mark_unsent, request_cancel, run_again
from app.tasks.store.recovering import (
    purge,
    reclaim,
    take_again,
    take_elsewhere,
    take_moved,
    take_undelivered,
    take_unsent,
)
from app.tasks.store.rows import CLOCK_SLACK_SECONDS, MAX_CRASHES, WORKER_LOST, Claim, Ended, Owed, Pair, tasks
from app.tasks.store.running import claim, find_claimed, find_suspects, put_off, record_progress, renew, still_held
from app.tasks.store.settling import (
    read,
    release,
    settle_all_completed,
    settle_cancelled,
    settle_completed,
    settle_failed,
    settle_retry,
)

__all__ = [
    "CLOCK_SLACK_SECONDS",
    "MAX_CRASHES",
    "WORKER_LOST",
    "Claim",
    "Ended",
    "Owed",
    "Pair",
    "add",
    "add_all",
    "claim",
    "count_pending",
    "find_claimed",
    "find_suspects",
    "mark_unsent",
    "purge",
    "put_off",
    "read",
    "reclaim",
    "record_progress",
    "release",
    "renew",
    "request_cancel",
    "run_again",
    "settle_all_completed",
    "settle_cancelled",
    "settle_completed",
    "settle_failed",
    "settle_retry",
    "still_held",
    "take_again",
    "take_elsewhere",
    "take_moved",
    "take_undelivered",
    "take_unsent",
    "tasks",
]
