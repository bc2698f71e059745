"""The promise of the task engine, against chance: no task is lost, and its effects happen exactly once.

A model submits, delivers, runs, settles, cancels and recovers tasks with the engine's own statements on a real
database, in an order and with failures that hypothesis makes up: commits that are lost or not answered, messages that
are lost, doubled, late or out of order, workers that die and speak up afterwards. After every step all records are
compared with what they were; at the end of every example nothing fails any more, and everything must end.

MODEL_EXAMPLES is the number of examples (15 unless it is set), for a long run:
`MODEL_EXAMPLES=2000 make test args="-n 0 tests/tasks/test_model.py"`. A failure is told as the steps that lead to it.
"""

import asyncio
import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from structlog.testing import capture_logs

from app.database import Database
from app.queues.base import Message
from app.tasks import Submitter, settlement
from tests.support.model.actions import Actions
from tests.support.model.state import CLOCK_STEPS, ROOM, Run
from tests.support.model.world import Commit, ModelTasks, Sending, World, is_final

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "15"))
STEPS = 70

INDEX = st.integers(0, 11)
COMMITS = st.sampled_from(
    [
        *[()] * 5,
        (Commit.LOST,),
        (Commit.UNANSWERED,),
        (Commit.LOST, Commit.UNANSWERED),
        (Commit.UNANSWERED, Commit.LOST),
        (Commit.UNANSWERED, Commit.UNANSWERED),
        (Commit.DONE, Commit.LOST),
        (Commit.DONE, Commit.UNANSWERED),
        (Commit.DONE, Commit.DONE, Commit.LOST),
    ]
)
SENDING = st.sampled_from([*[Sending.KEPT] * 4, Sending.REFUSED, Sending.LOST, Sending.CRASH])
MOST_OPEN = 3
"""How many tasks are open when no more are submitted: few, so that much happens to each."""
OUTCOMES = ("completed", "retried", "failed", "stopped")
ONE_IN_THREE = st.sampled_from([False, False, True])


class EngineMachine(Actions, RuleBasedStateMachine):
    """What may happen, and in the end that everything ends."""

    def __init__(self, runner: asyncio.Runner, world: World, kinds: ModelTasks) -> None:
        RuleBasedStateMachine.__init__(self)
        Actions.__init__(self, runner, world, kinds)

    @initialize(kinds=st.lists(INDEX, min_size=2, max_size=MOST_OPEN), crashes=st.integers(0, 2), run=st.booleans())
    def begin(self, kinds: list[int], crashes: int, run: bool) -> None:
        """Have something to do, since hypothesis leaves some of the rules out of each example."""
        self.step(self.do_submit(self.submitter, [self.new_task(kind) for kind in kinds]))
        self.runner.run(self.do_change(crashes=crashes))
        if run:
            self.deliver_all(0)

    @rule(
        how=st.sampled_from(["alone", "later", "together", "elsewhere", "in a transaction", "rolled back"]),
        kind=INDEX,
        with_key=st.booleans(),
        commits=COMMITS,
        sending=SENDING,
    )
    def submit(self, how: str, kind: int, with_key: bool, commits: Sequence[Commit], sending: Sending) -> None:
        """Submit a task, or several; elsewhere is another broker, which nobody listens to any more."""
        if len(self.open()) >= MOST_OPEN and not with_key:
            return
        new = self.new_task(kind, later=how == "later", with_key=with_key)
        submitter = Submitter(self.world.database, self.world.elsewhere) if how == "elsewhere" else self.submitter
        if how in {"in a transaction", "rolled back"}:
            work = self.do_submit_with(new, keep=how != "rolled back")
        elif how == "together":
            work = self.do_submit(submitter, [self.new_task(kind), self.new_task(kind + 1)])
        else:
            work = self.do_submit(submitter, [new])
        self.step(work, commits=commits, sending=sending)

    @rule(message=INDEX, worker=INDEX, is_lost=st.sampled_from([False, False, False, True]), commits=COMMITS)
    def deliver(self, message: int, worker: int, is_lost: bool, commits: Sequence[Commit]) -> None:
        if not self.world.broker.messages:
            self.recover(worker, commits, Sending.KEPT)
        else:
            arriving = self.world.broker.take(message)
            if not is_lost:
                self.step(self.do_deliver(self.workers[worker % 3], arriving), commits=commits)

    @rule(message=INDEX, worker=INDEX)
    def deliver_once_more(self, message: int, worker: int) -> None:
        if past := self.world.broker.past[::-1]:
            self.step(self.do_deliver(self.workers[worker % 3], past[message % len(past)]))

    @rule(worker=INDEX)
    def deliver_all(self, worker: int) -> None:
        for _message in range(len(self.world.broker.messages)):
            self.step(self.do_deliver(self.workers[worker % 3], self.world.broker.take()))

    @rule(worker=INDEX, left_out=st.integers(-4, 2))
    def beat(self, worker: int, left_out: int) -> None:
        if busy := [worker for worker in self.workers if worker.runs]:
            beating = busy[worker % len(busy)]
            self.step(self.do_beat(beating, [run for n, run in enumerate(beating.runs.values()) if n != left_out]))

    @rule(run=INDEX)
    def progress(self, run: int) -> None:
        if chosen := self.choose(run):
            self.step(self.do_progress(chosen))

    @rule(run=INDEX, again=ONE_IN_THREE, commits=COMMITS, sending=SENDING)
    def complete(self, run: int, again: bool, commits: Sequence[Commit], sending: Sending) -> None:
        """End a run, and perhaps let the same be said of it once more, later."""
        if chosen := self.choose(run):
            self.settle(chosen, "completed", again, commits, sending)

    @rule(run=INDEX, how=st.sampled_from(OUTCOMES[1:]), again=ONE_IN_THREE, commits=COMMITS, sending=SENDING)
    def end_otherwise(self, run: int, how: str, again: bool, commits: Sequence[Commit], sending: Sending) -> None:
        if chosen := self.choose(run):
            self.settle(chosen, how, again, commits, sending)

    def settle(self, run: Run, how: str, again: bool, commits: Sequence[Commit], sending: Sending) -> None:
        self.step(self.do_settle(run, how), commits=commits, sending=sending)
        self.forget(run)
        if again:
            self.late.append(run)

    @rule(worker=INDEX)
    def crash(self, worker: int) -> None:
        self.lose_worker(worker % 3)

    @rule(record=INDEX, commits=COMMITS)
    def cancel_or_run_again(self, record: int, commits: Sequence[Commit]) -> None:
        if self.rows:
            row = list(self.rows.values())[record % len(self.rows)]
            self.step(self.do_run_again(row.id) if is_final(row) else self.do_cancel(row.id), commits=commits)

    @rule(seconds=st.sampled_from(CLOCK_STEPS), purge=ONE_IN_THREE)
    def pass_time(self, seconds: int, purge: bool = False) -> None:
        self.runner.run(self.do_pass_time(seconds))
        if purge:
            self.step(self.do_purge())

    @rule(worker=INDEX, commits=COMMITS, sending=SENDING)
    def recover(self, worker: int, commits: Sequence[Commit], sending: Sending) -> None:
        self.step(self.do_recover(worker % 3), commits=commits, sending=sending)

    @rule(worker=INDEX)
    def take_over(self, worker: int) -> None:
        """Let all leases run out, and one worker take what there is; the others do not know yet."""
        self.pass_time(CLOCK_STEPS[-1])
        self.recover(worker, (), Sending.KEPT)
        self.deliver_all(worker)

    @rule(record=INDEX, first=INDEX, second=INDEX, third=INDEX)
    def race(self, record: int, first: int, second: int, third: int) -> None:
        """Do several things with one record at the same time."""
        if not self.rows:
            return
        row = list(self.rows.values())[record % len(self.rows)]
        others = [other.id for other in self.rows.values() if other.queue == row.queue and other.id != row.id]
        runs = [run for run in self.runs() if run.claim.id == row.id][-1:]
        deliveries = [
            self.do_deliver(worker, Message(row.queue, ids[: ROOM + 1], row.sent_at or row.created_at))
            for worker, ids in zip(self.workers, [(row.id, *others), (*others[::-1], row.id)], strict=False)
        ]
        possible = [
            *deliveries,
            self.do_recover(0),
            self.do_recover(1),
            self.do_cancel(row.id),
            self.do_run_again(row.id),
            self.do_purge(),
            *(self.do_settle(run, outcome) for run in runs for outcome in OUTCOMES),
            *(self.do_beat(None, [run]) for run in runs),
        ]
        chosen = {index % len(possible) for index in (first, second, third)}
        for index, work in enumerate(possible):
            if index not in chosen:
                work.close()
        self.step(*(possible[index] for index in chosen))
        for run in runs:
            self.forget(run)
            self.late.append(run)

    def choose(self, index: int) -> Run | None:
        """Return one of the runs; if there are none, have some first."""
        if not self.runs():
            self.deliver_all(index)
        runs = self.runs()
        return runs[index % len(runs)] if runs else None

    def teardown(self) -> None:
        """Let nothing fail any more: then everything ends. After a failure there is nothing more to learn."""
        if self.is_sound:
            self.late = []
            self.workers = [self.new_worker(0)]
            for _round in range(len(self.rows) + 6):
                if not self.open():
                    break
                self.settle_down()
            else:
                raise AssertionError(f"these never end: {self.open()}")
        assert self.accepted <= self.rows.keys() | self.purged.keys()

    def settle_down(self) -> None:
        """Run what there is with one healthy worker, as far as it goes at once."""
        self.take_over(0)
        for run in self.runs():
            self.step(self.do_settle(run, "completed"))
            self.forget(run)


def test_no_task_is_lost_and_effects_happen_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "FIRST_WAIT_SECONDS", 0)
    kinds = ModelTasks()
    with asyncio.Runner() as runner, capture_logs():
        database = Database(database_url, pool_size=5)
        try:
            world = World(database)
            runner.run(world.create_effects())

            class Machine(EngineMachine):
                def __init__(self) -> None:
                    super().__init__(runner, world, kinds)

            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    derandomize=os.environ.get("CI") == "true",  # the same examples for every change; by hand, new ones
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
