"""Running CPU-bound work in processes of their own, which a timeout or a cancellation kills."""

import ctypes
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar
from uuid import UUID

from anyio import to_process

if TYPE_CHECKING:
    from app.tasks.context import TaskContext
    from app.tasks.definition import Task

T = TypeVar("T")
Args = ParamSpec("Args")

PR_SET_PDEATHSIG = 1


async def call(function: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
    """Call a function of a module in another process; it is killed if this is cancelled.

    Function, arguments, result and errors travel between the two processes as pickles, which nobody else can reach.
    Raises what the function raises, and anyio.BrokenWorkerProcess if the process dies.
    """
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # the process would load the main module as well, which fails for an engine's own
        vars(main).pop("__file__", None)
    return await to_process.run_sync(_enter, function, args, kwargs, cancellable=True)


async def call_task(task: "Task[Any, Any]", context: "TaskContext", payload: Any) -> Any:
    """Call a task's function in another process. Its context knows who it is, and nothing of the database there."""
    identity = (context.task_id, context.name, context.attempt, context.max_attempts, context.correlation_id)
    return await call(_run_task, task.function.__module__, task.name, identity, payload)


class DetachedContext:
    """What a task has of its context in another process: which one it is."""

    lost = False

    def __init__(self, task_id: UUID, name: str, attempt: int, max_attempts: int, correlation_id: str | None) -> None:
        self.task_id = task_id
        self.name = name
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.correlation_id = correlation_id

    def retry(self, *, after: float | None = None) -> NoReturn:
        """Ask for another attempt, as TaskContext.retry does."""
        from app.tasks.context import TaskRetry

        raise TaskRetry(after)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"context.{name} is not there in a process of its own: use `async def`, "
            "and `await context.in_process(...)` for the part that computes"
        )


def _enter(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """Make the process end with its worker, then call the function."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return function(*args, **kwargs)


def _run_task(module: str, name: str, identity: tuple[Any, ...], payload: Any) -> Any:
    """Find the task by its name, as the module's attribute is the task and not its function."""
    from app.tasks.definition import registry

    import_module(module)
    context: Any = DetachedContext(*identity)
    return registry[name].function(context, payload)
