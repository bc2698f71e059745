"""What must hold after every step of the model, and what may have changed by it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.tasks import NewTask
from app.tasks.recovery import PROBE_SECONDS
from app.tasks.settlement import Cancelled, Completed, Failed, Retried
from app.tasks.store import CLOCK_SLACK_SECONDS, MAX_CRASHES
from app.tasks.submit import Replay
from tests.support.model.state import PURGE_AGE, State
from tests.support.model.world import Record, columns, is_final, origin, shown


class Checks(State):
    """Compares the records with what they were."""

    def check(self, rows: dict[UUID, Record]) -> None:
        """Compare all records with what they were before the step."""
        for task_id, old in self.rows.items():
            if task_id in rows:
                self.check_change(old, rows[task_id])
                if not self.doing.raced:
                    self.check_reason(old, rows[task_id])
            else:
                assert self.doing.purging
                assert is_final(old)
                assert old.finished_at < datetime.now(UTC) - timedelta(seconds=PURGE_AGE)
                self.purged[task_id] = old
        for row in rows.values():
            if row.id not in self.rows:
                parent = origin(row)
                if parent is not None:
                    self.children[parent].add(row.id)
                assert parent in self.rows or row.id in self.doing.submitting, "a submission made two records"
        for row in rows.values():
            self.check_record(row)
        assert self.accepted <= rows.keys() | self.purged.keys(), "an accepted task is lost"
        self.check_messages(rows)
        if not self.doing.raced:
            self.check_answers(rows)

    def check_record(self, row: Record) -> None:
        """Check what is true of a record at any time."""
        assert 0 <= row.attempt <= row.max_attempts  # trying again by hand begins at 0 again
        assert row.attempt > 0 or row.status != "running"
        assert row.crashes >= 0
        completed = row.status == "completed"
        assert row.effects == (completed and row.name in self.kinds.writers), "effects did not happen once"
        if row.name == self.kinds.parent.name:
            assert len(self.children[row.id]) == completed
        elif row.name == self.kinds.guarded.name:
            followers = len(self.children[row.id])
            if self.doing.raced and row.id in self.doing.running_again:
                # It may have failed and be on its way again: of that, its follower alone can tell.
                self.failures[row.id] += followers == self.failures[row.id] + 1
            assert followers == self.failures[row.id]

    def check_change(self, old: Record, new: Record) -> None:
        """Check what is true of any change, whatever has happened."""
        doing = self.doing
        assert new.fence - old.fence == (new.claim_token != old.claim_token), "a claim has not its own fence"
        assert new.version >= old.version
        if columns(old) != columns(new):
            assert not is_final(old) or new.id in doing.running_again, "a task that had ended was changed"
            assert new.version > old.version or shown(old) == shown(new), "a client cannot see the change"
        if old.cancel_requested_at and new.id not in doing.running_again:
            assert new.status != "pending", "a cancellation was forgotten"
        if new.status == "failed" and (old.status != "failed" or new.version > old.version + 1):
            self.failures[new.id] += 1
        if new.status == "running" == old.status and new.lease_expires_at != old.lease_expires_at:
            assert (new.id, new.fence) in doing.renewing or new.fence > old.fence

    def check_reason(self, old: Record, new: Record) -> None:
        """Check that a record's change is what the one thing that happened brings about."""
        doing = self.doing
        attempt, crashes = old.attempt, old.crashes
        outcome = doing.settling.get(new.id)
        reclaimed = old.status == "running" and old.lease_expires_at < new.read_at and doing.recovering != []
        known = any(new.name in worker.known for worker in doing.recovering)
        match old.status, new.status:
            case "pending", "running":
                assert new.name in doing.claiming[new.id].known
                assert old.run_at <= new.read_at, "a task ran too early"
                attempt += 1
            case "pending", "cancelled":
                assert new.id in doing.cancelling
            case "running", "completed":
                assert isinstance(outcome, Completed)
            case "running", "failed":
                if not isinstance(outcome, Failed):
                    assert reclaimed
                    assert known
                    crashes += 1
                    assert crashes >= MAX_CRASHES
            case "running", "cancelled":
                if reclaimed:
                    crashes += 1
                elif not isinstance(outcome, Cancelled):
                    assert outcome is not None
                    assert old.cancel_requested_at
                    attempt = new.attempt  # as it was, or given back
            case "running", "pending":
                if outcome is None:
                    assert reclaimed
                    crashes += 1
                    assert crashes < MAX_CRASHES or not known
                    assert new.sent_at is None or new.id in self.sent() or self.world.has_failed
                if isinstance(outcome, Retried):
                    assert new.sent_at is None, "the next attempt waits for a message that is not sent"
                else:
                    attempt -= 1
            case "failed" | "cancelled", "pending":
                assert new.id in doing.running_again
                assert (new.error, new.result, new.progress, new.cancel_requested_at) == (None, None, None, None)
                attempt = crashes = 0
            case before, after:
                assert before == after
                if new.run_at != old.run_at:
                    assert old.crashes > 0
                    assert old.run_at < new.run_at, "a wait was cut short"
        assert (new.attempt, new.crashes) == (attempt, crashes)
        if doing.recovering and not self.world.has_failed and new.status != "cancelled":
            overlooked = old.status == new.status == "running" and old.lease_expires_at < old.read_at
            assert not overlooked, "an expired lease was overlooked"

    def check_replay(self, known: Record | None, new: NewTask, replay: Replay) -> None:
        """Check that a key gives what it gave before."""
        assert known is not None
        assert (known.id, known.payload) == (replay.accepted.id, new.payload)

    def check_messages(self, rows: dict[UUID, Record]) -> None:
        """Check that what merely waits is not sent again."""
        doing = self.doing
        for message in self.world.broker.sent:
            if not message.ids:
                last = self.probed_at.get(message.queue)
                assert last is None or message.sent_at - last >= timedelta(seconds=PROBE_SECONDS)
                self.probed_at[message.queue] = message.sent_at
            for task_id in message.ids:
                assert task_id in rows or doing.purging, "a message was sent for what is not committed"
        sent = self.sent()
        owed = {task_id for message in self.world.broker.refused for task_id in message.ids}.difference(sent)
        for row in (rows[task_id] for task_id in owed & rows.keys()):
            assert self.world.has_failed or row.sent_at is None or row.status != "pending", "a message is not owed"
        if doing.recovering and not (doing.resending or doing.claiming or doing.settling or doing.running_again):
            assert len(sent) == len(set(sent)), "a message was sent twice"
            for old in (self.rows[task_id] for task_id in sent if task_id in self.rows):
                waits = old.status == "pending" and old.sent_at is not None and old.sent_via == self.world.broker.via
                if waits and old.queue in self.delivered_to:
                    waits = old.sent_at >= self.delivered_to[old.queue] - timedelta(seconds=CLOCK_SLACK_SECONDS)
                assert not waits, "a message was sent again although it may still arrive"
                assert rows[old.id].run_at <= rows[old.id].read_at, "a message was sent too early"

    def check_answers(self, rows: dict[UUID, Record]) -> None:
        """Check that what statements answered is what has happened."""
        for (task_id, fence), stood in self.doing.answers:
            old = self.rows.get(task_id)
            stands = old is not None and (old.status, old.fence) == ("running", fence)
            completed = old is not None and (old.status, old.fence) == ("completed", fence)
            assert stood == stands or (stood and completed and isinstance(self.doing.settling.get(task_id), Completed))
        for tokens, claims in self.doing.claims:
            held = {row.id: row.fence for row in rows.values() if row.claim_token in tokens and row.status == "running"}
            assert {claim.id: claim.fence for claim in claims} == held
