"""How the things happen that the model makes up, with the engine's own statements; each is followed by the checks."""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from app.queues.base import Message
from app.tasks import NewTask, Submitter, settlement, store
from app.tasks.context import EffectSession
from app.tasks.failure import follow_up
from app.tasks.settlement import Cancelled, Completed, Failed, Outcome, Released, Retried
from app.tasks.store import Claim
from app.tasks.submit import KeyReused, Replay
from tests.support.inline import trust_database
from tests.support.model.checks import Checks
from tests.support.model.state import LEASE, OWNER, PURGE_AGE, RETRY_DELAY, ROOM, Run, Step, Worker
from tests.support.model.world import Commit, Sending, effects

KNOWN_KEY = (Replay, KeyReused)
ERROR = {"type": "Error", "message": "It did not work."}


class Actions(Checks):
    """Does one thing, or several at the same time."""

    def step(
        self, *work: Coroutine[Any, Any, None], commits: Sequence[Commit] = (), sending: Sending = Sending.KEPT
    ) -> None:
        """Do something, or several things at the same time, and check what has changed."""
        self.is_sound = False
        self.runner.run(self.do_step(work, commits, sending))
        self.is_sound = True

    async def do_step(
        self, work: Sequence[Coroutine[Any, Any, None]], commits: Sequence[Commit], sending: Sending
    ) -> None:
        world = self.world
        world.coming, world.has_failed, world.broker.sending = list(commits), False, sending
        world.broker.sent, world.broker.refused = [], []
        self.doing = Step(raced=len(work) > 1)
        results = await asyncio.gather(*work, return_exceptions=True)
        await self.submitter.close()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        world.coming, world.broker.sending = [], Sending.KEPT
        rows = await world.read()
        self.check(rows)
        self.rows = rows

    async def do_submit(self, submitter: Submitter, new: Sequence[NewTask]) -> None:
        known = self.with_key(new[0].key)
        self.doing.submitting.update(each.id for each in new)
        try:
            if len(new) == 1:
                self.accepted.add((await submitter.submit(new[0])).id)
            else:
                self.accepted.update(accepted.id for accepted in await submitter.submit_many(new))
            assert known is None
        except Replay as replay:
            self.check_replay(known, new[0], replay)
        except KeyReused:
            assert known is not None
            assert known.payload != new[0].payload
        except ConnectionError:
            assert self.world.has_failed
        finally:
            await submitter.close()

    async def do_submit_with(self, new: NewTask, keep: bool) -> None:
        known = self.with_key(new.key)
        self.doing.submitting.add(new.id)
        session = self.world.database.session()
        try:
            await self.submitter.submit_with(new, session)
            if keep:
                await session.commit()
                await self.submitter.close()
                self.accepted.add(new.id)
                assert new.id in self.sent() or self.world.broker.sending in {Sending.REFUSED, Sending.CRASH}
        except KNOWN_KEY:
            assert known is not None
        except ConnectionError:
            assert self.world.has_failed
        finally:
            await session.close()
            await self.submitter.close()
        if not keep:
            assert not self.world.broker.sent

    async def do_deliver(self, worker: Worker, message: Message) -> None:
        """Claim what a message names, as the executor does."""
        for known in self.delivered_to, worker.delivered_to:
            known[message.queue] = max(message.sent_at, known.get(message.queue, message.sent_at))
        if not message.ids:
            return
        async with worker.claiming:
            taken = message.ids[: max(ROOM - len(worker.runs), 0)]
            claims = await self.claim(worker, taken)
            for claim in sorted(claims, key=lambda claim: claim.id):
                run = Run(claim)
                assert run.pair not in self.claimed, "two claims have one fence"
                self.claimed.add(run.pair)
                worker.runs[run.pair] = run
            assert len(worker.suspects) <= 1, "suspects run beside each other"
        if message.ids[len(taken) :]:
            self.doing.resending = True
            await self.submitter.resend(message.ids[len(taken) :], parts=2)

    async def claim(self, worker: Worker, ids: Sequence[UUID]) -> list[Claim]:
        tokens: list[UUID] = []
        self.doing.claiming |= dict.fromkeys(ids, worker)
        for token in uuid4(), uuid4(), uuid4():
            try:
                async with self.world.database.begin() as connection:
                    claims = await store.find_claimed(connection, ids, tokens) if tokens else []
                    claims += await store.claim(
                        connection,
                        ids,
                        known=worker.known,
                        worker=worker.name,
                        token=token,
                        lease=LEASE,
                        may_take_suspect=not worker.suspects and not any(claim.crashes for claim in claims),
                    )
                    if len(claims) < len(ids):
                        await store.put_off(connection, await store.find_suspects(connection, ids), 1)
            except ConnectionError:
                tokens.append(token)
            else:
                self.doing.claims.append(({*tokens, token}, claims))
                return claims
        return []  # it has lost patience, and what it claimed is nobody's until the lease ends

    async def do_beat(self, worker: Worker | None, runs: Collection[Run]) -> None:
        pairs = [run.pair for run in runs]
        self.doing.renewing.update(pairs)
        async with self.world.database.begin() as connection:
            renewed = await store.renew(connection, pairs, LEASE)
        async with self.world.database.read() as session:
            held = await store.still_held(session, [pair for pair in pairs if pair not in renewed])
        if not self.doing.raced:
            assert not held
            self.doing.answers += [(pair, pair in renewed) for pair in pairs]
        for run in runs:
            if run.pair in renewed:
                run.asked_to_cancel = renewed[run.pair]
            elif run.pair not in held and worker is not None:
                del worker.runs[run.pair]

    async def do_progress(self, run: Run) -> None:
        async with self.world.database.begin() as connection:
            progress = {"fraction": 0.5, "message": uuid4().hex}
            self.doing.answers.append((run.pair, await store.record_progress(connection, run.pair, progress)))

    async def do_settle(self, run: Run, how: str) -> None:
        outcome = await self.outcome(run, how)
        self.doing.settling[run.claim.id] = outcome
        try:
            counted = await self.settler.settle(run.pair, outcome)
        except asyncio.CancelledError:
            return
        if not self.world.has_failed:
            self.doing.answers.append((run.pair, counted))

    async def outcome(self, run: Run, how: str) -> Outcome:
        """Do what a task and its run do before they settle."""
        claim = run.claim
        task = next(task for task in self.kinds.all if task.name == claim.name)
        if how == "stopped":
            return Cancelled() if run.asked_to_cancel else Released()
        if how == "completed":
            session = None
            if task.name in self.kinds.writers:
                session = EffectSession(self.world.database.engine)
                await session.execute(effects.insert().values(task_id=claim.id, fence=claim.fence))
            children = []
            if task is self.kinds.parent:
                children = [NewTask.of(self.kinds.plain, {"parent": str(claim.id)}, owner=OWNER)]
            return Completed(claim.fence, session, children)
        if how == "retried" and claim.attempt < claim.max_attempts:
            return Retried(ERROR, RETRY_DELAY)
        return Failed(ERROR, follow_up(task, claim, ERROR))

    async def do_cancel(self, task_id: UUID) -> None:
        self.doing.cancelling.add(task_id)
        await self.ask(lambda connection: store.request_cancel(connection, task_id, OWNER))

    async def do_run_again(self, task_id: UUID) -> None:
        self.doing.running_again.add(task_id)
        await self.ask(lambda connection: store.run_again(connection, task_id, OWNER))

    async def ask(self, statement: settlement.Statement) -> None:
        try:
            async with self.world.database.begin() as connection:
                await statement(connection)
        except ConnectionError:
            assert self.world.has_failed

    async def do_recover(self, place: int) -> None:
        worker = self.workers[place]
        self.doing.recovering.append(worker)
        try:
            trust_database(worker.recovery)
            await worker.recovery.tick()
        except ConnectionError:
            assert self.world.has_failed
        except asyncio.CancelledError:
            self.world.has_failed = True
            self.lose_worker(place)

    async def do_purge(self) -> None:
        self.doing.purging = True
        async with self.world.database.begin() as connection:
            await store.purge(connection, older_than=PURGE_AGE, limit=100)

    async def do_change(self, **values: Any) -> None:
        """Give all records a past."""
        async with self.world.database.begin() as connection:
            await connection.execute(store.tasks.update().values(values))
        self.rows = await self.world.read()

    async def do_pass_time(self, seconds: float) -> None:
        await self.world.turn_clock(seconds)
        for times in self.delivered_to, self.probed_at, *(worker.delivered_to for worker in self.workers):
            for name in times:
                times[name] -= timedelta(seconds=seconds)
        self.rows = await self.world.read()
