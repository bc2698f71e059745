"""What the model knows: its workers and their runs, what was accepted, and the records after the last step."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from app.tasks import NewTask, Submitter, Task
from app.tasks.definition import Registry
from app.tasks.executor import Executor
from app.tasks.new_task import IdempotencyKey
from app.tasks.recovery import Recovery
from app.tasks.settlement import Outcome, Settler
from app.tasks.store import Claim, Pair
from tests.support.model.world import ModelTasks, Record, World, is_final

OWNER = "client"
ROOM = 3
"""How many tasks a worker of the model runs at the same time."""

# No sum of the clock's steps is one of these, or one of the engine's own times: a step is before or after, never both.
LEASE = 20.5
RETRY_DELAY = 9.5
START_DELAY = 4.5
PURGE_AGE = 1.5
CLOCK_STEPS = (3, 7, 40)


@dataclass
class Run:
    """A claim, as whoever made it remembers it."""

    claim: Claim
    asked_to_cancel: bool = False

    @property
    def pair(self) -> Pair:
        """The task's id and the claim's fence."""
        return self.claim.id, self.claim.fence


class Worker:
    """A worker process: what it knows, what it runs, and its recovery, which is the real one."""

    def __init__(self, world: World, submitter: Submitter, name: str, registry: Registry) -> None:
        self.name = name
        self.registry = registry
        self.runs: dict[Pair, Run] = {}
        self.delivered_to: dict[str, datetime] = {}
        self.claiming = asyncio.Lock()
        # Recovery takes no more of an executor than what this class has.
        executor = cast(Executor, self)
        self.recovery = Recovery(world.database, submitter, executor, lease=LEASE, retention_days=1)

    @property
    def known(self) -> list[str]:
        """The names of the tasks it can run."""
        return [task.name for task in self.registry]

    @property
    def suspects(self) -> list[Run]:
        """What it runs and a worker was lost with."""
        return [run for run in self.runs.values() if run.claim.crashes]


@dataclass
class Step:
    """What was tried in one step; it explains the changes of the records."""

    raced: bool = False
    """Whether several things happened at the same time: their changes add up."""
    submitting: set[UUID] = field(default_factory=set)
    claiming: dict[UUID, Worker] = field(default_factory=dict)
    claims: list[tuple[set[UUID], list[Claim]]] = field(default_factory=list)
    """The tokens of claims, and what they gave."""
    renewing: set[Pair] = field(default_factory=set)
    settling: dict[UUID, Outcome] = field(default_factory=dict)
    cancelling: set[UUID] = field(default_factory=set)
    running_again: set[UUID] = field(default_factory=set)
    recovering: list[Worker] = field(default_factory=list)
    purging: bool = False
    resending: bool = False
    """Whether a worker was full."""
    answers: list[tuple[Pair, bool]] = field(default_factory=list)
    """Of fenced statements whose answer came, whether they say that their claim stood."""


class State:
    """Clients, workers and a broker around the real records."""

    def __init__(self, runner: asyncio.Runner, world: World, kinds: ModelTasks) -> None:
        self.runner = runner
        self.world = world
        self.kinds = kinds
        self.submitter = Submitter(world.database, world.broker)
        self.settler = Settler(world.database, self.submitter)
        self.workers = [self.new_worker(n) for n in range(3)]
        self.late: list[Run] = []
        """Runs of workers that are dead, or thought to be: they do not beat, and may speak up at any time."""
        self.rows: dict[UUID, Record] = {}
        """All records, as they were after the last step."""
        self.purged: dict[UUID, Record] = {}
        self.accepted: set[UUID] = set()
        self.children: defaultdict[UUID, set[UUID]] = defaultdict(set)
        self.failures: defaultdict[UUID, int] = defaultdict(int)
        self.claimed: set[Pair] = set()
        self.delivered_to: dict[str, datetime] = {}
        """The latest time of sending among the messages that have arrived anywhere."""
        self.probed_at: dict[str, datetime] = {}
        self.doing = Step()
        self.is_sound = True
        self.runner.run(world.clear())

    def new_worker(self, place: int) -> Worker:
        """Start a worker; the last place's is of an older version and does not know all tasks."""
        registry = self.kinds.registry(*([self.kinds.plain, self.kinds.writer] if place == 2 else []))
        return Worker(self.world, self.submitter, f"worker-{place}-{uuid4().hex[:6]}", registry)

    def new_task(self, kind: int, *, later: bool = False, with_key: bool = False) -> NewTask:
        """Return a task to submit; all that have a key have the same, and one of a few payloads."""
        task: Task[Any, Any] = self.kinds.submitted[0 if with_key else kind % len(self.kinds.submitted)]
        run_at = datetime.now(UTC) + timedelta(seconds=START_DELAY) if later else None
        return NewTask.of(task, kind // 4, run_at=run_at, owner=OWNER, key="key" if with_key else None)

    def with_key(self, key: IdempotencyKey | str | None) -> Record | None:
        """Return the record that has a key."""
        if not isinstance(key, IdempotencyKey):
            return None
        keyed = [row for row in self.rows.values() if (row.scope, row.idempotency_key) == (key.scope, key.key)]
        assert len(keyed) <= 1, "a key names two tasks"
        return keyed[0] if keyed else None

    def open(self) -> list[Record]:
        """Return the records of tasks that have not ended."""
        return [row for row in self.rows.values() if not is_final(row)]

    def runs(self) -> list[Run]:
        """Return all that runs, or ran and may still speak up."""
        return [*(run for worker in self.workers for run in worker.runs.values()), *self.late]

    def forget(self, run: Run) -> None:
        """Drop a run that has ended from whoever has it."""
        for worker in self.workers:
            worker.runs.pop(run.pair, None)
        self.late = [other for other in self.late if other is not run]

    def sent(self) -> list[UUID]:
        """Return the ids in the messages sent in this step."""
        return [task_id for message in self.world.broker.sent for task_id in message.ids]

    def lose_worker(self, place: int) -> None:
        """Let a worker die, and start another in its place."""
        self.late += self.workers[place].runs.values()
        self.workers[place] = self.new_worker(place)
