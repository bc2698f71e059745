"""Several queues: a task names its own, and a worker takes from those it is told to."""

from collections.abc import Awaitable, Callable

from app.queues import create_queue
from app.settings import Settings
from app.tasks import Submitter, TaskRecord
from tests.support.bad_tasks import on_default_queue, on_slow_queue
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.processes import WorkerProcess
from tests.support.records import read_all, submit_all
from tests.support.waiting import until

WaitForTask = Callable[..., Awaitable[TaskRecord]]


async def test_messages_go_to_the_queue_that_the_task_names(
    submitter: Submitter, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    [slow] = await submit_all(submitter, on_slow_queue, [None])
    [usual] = await submit_all(submitter, on_default_queue, [None])
    assert {message.queue: message.ids for message in queue.messages} == {"slow": (slow,), "default": (usual,)}
    assert [record.queue for record in await read_all(submitter.database)] == ["slow", "default"]

    queue.messages.clear()
    await submitter.resend([slow, usual])
    assert {message.queue: message.ids for message in queue.messages} == {"slow": (slow,), "default": (usual,)}


async def test_workers_take_from_the_queues_they_are_told_to(
    live_submitter: Submitter,
    start_worker: Callable[..., WorkerProcess],
    wait_for_task: WaitForTask,
    settings: Settings,
) -> None:
    slow_only = start_worker(settings.model_copy(update={"worker_queues": "slow"}))
    [usual] = await submit_all(live_submitter, on_default_queue, [None])
    for task_id in await submit_all(live_submitter, on_slow_queue, [None] * 3):
        assert (await wait_for_task(task_id)).result == slow_only.process.pid

    transport = create_queue(settings)
    assert await transport.depth("default") >= 1  # its message, and perhaps some that ask for it
    [waiting] = [record for record in await read_all(live_submitter.database) if record.id == usual]
    assert (waiting.status, waiting.fence) == ("pending", 0)

    slow_only.kill()
    both = start_worker(settings.model_copy(update={"worker_queues": "default,slow"}))
    [slow] = await submit_all(live_submitter, on_slow_queue, [None])
    for task_id in usual, slow:
        assert (await wait_for_task(task_id)).result == both.process.pid

    async def is_empty() -> bool:
        return await transport.depth("default") + await transport.depth("slow") == 0

    await until(is_empty)
    await transport.close()
