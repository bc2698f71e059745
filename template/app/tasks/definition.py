"""@task: what makes a function a durable task, and the registry of all of them."""

import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, get_type_hints, overload

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from app.tasks.context import TaskContext
from app.tasks.retry import RetryPolicy
from app.tasks.schemas import FailedTask

P = TypeVar("P")
R = TypeVar("R")


class TaskDefinitionError(Exception):
    """A task is declared in a way that cannot work; the message says where and what to do."""


@dataclass(frozen=True)
class Task(Generic[P, R]):
    """A function that workers run, with its policy. Call it as the function it is, or submit it."""

    name: str
    function: Callable[[TaskContext, P], Coroutine[Any, Any, R] | R]
    payload: TypeAdapter[P]
    result: TypeAdapter[R]
    queue: str
    max_attempts: int
    timeout: float
    retry_on: tuple[type[BaseException], ...]
    retry: RetryPolicy
    run_in: Literal["thread", "process"]
    on_failure: "Task[FailedTask, Any] | None"
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))

    def __call__(self, context: TaskContext, payload: P) -> Any:
        """Call the function itself, without a record or a queue; await it if it is `async def`."""
        return self.function(context, payload)

    @property
    def place(self) -> str:
        """Where it is defined, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Registry:
    """The tasks this process knows, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[Any, Any]] = {}

    def add(self, task: Task[Any, Any]) -> None:
        """Add a task. Raises TaskDefinitionError if another one has its name."""
        known = self._tasks.get(task.name)
        if known is not None:
            raise TaskDefinitionError(
                f"two tasks are called {task.name!r}: {known.place} and {task.place}. "
                'Rename one of them, or give it another name: @task(name="...")'
            )
        self._tasks[task.name] = task

    def remove(self, name: str) -> None:
        """Forget a task, for tests that define one of their own."""
        self._tasks.pop(name, None)

    def __getitem__(self, name: str) -> Task[Any, Any]:
        return self._tasks[name]

    def __iter__(self) -> Iterator[Task[Any, Any]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)


registry = Registry()
"""All tasks of the service: declaring one with @task adds it."""


class TaskDecorator(Protocol):
    """What @task(...) returns."""

    @overload
    def __call__(self, function: Callable[[TaskContext, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[[TaskContext, P], R], /) -> Task[P, R]: ...


@overload
def task(function: Callable[[TaskContext, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[[TaskContext, P], R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    queue: str = "default",
    max_attempts: int = 3,
    timeout: float = 300,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    retry: RetryPolicy = ...,
    run_in: Literal["thread", "process"] = "thread",
    on_failure: "Task[FailedTask, Any] | None" = None,
) -> TaskDecorator: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = "default",
    max_attempts: int = 3,
    timeout: float = 300,
    retry_on: tuple[type[BaseException], ...] = (Exception,),
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
    run_in: Literal["thread", "process"] = "thread",
    on_failure: "Task[FailedTask, Any] | None" = None,
) -> Any:
    """Make `async def f(context: TaskContext, payload: Payload) -> Result` a durable task.

    Payload and result are Pydantic models, or anything else that a TypeAdapter takes, and are stored as JSON.
    `def` works too: it runs in a thread, or with `run_in="process"` in a process that a timeout or a cancellation
    really stops. `on_failure` is a task that takes a FailedTask; it is submitted once, when this one has failed for
    good. `name` is what records carry: by default `feature.function`; keep it when
    the function moves. `timeout` is in seconds, for one attempt. An attempt that raises one of `retry_on`, or times
    out, is followed by another after the wait that `retry` gives, until `max_attempts` are used up.

    Raises TaskDefinitionError if the function has another signature, or its name is taken.
    """

    def define(function: Callable[..., Any]) -> Task[Any, Any]:
        payload, result = _read_signature(function)
        if run_in == "process" and inspect.iscoroutinefunction(function):
            raise TaskDefinitionError(
                f'{function.__qualname__}: run_in="process" is for `def`; in `async def`, hand over the part that '
                "computes: await context.in_process(...)"
            )
        if max_attempts < 1 or timeout <= 0:
            raise TaskDefinitionError(f"{function.__qualname__}: max_attempts is at least 1, timeout above 0")
        defined: Task[Any, Any] = Task(
            name=name or default_name(function),
            function=function,
            payload=payload,
            result=result,
            queue=queue,
            max_attempts=max_attempts,
            timeout=timeout,
            retry_on=retry_on,
            retry=retry,
            run_in=run_in,
            on_failure=on_failure,
        )
        registry.add(defined)
        return defined

    return define if function is None else define(function)


def default_name(function: Callable[..., Any]) -> str:
    """Return `feature.function` for a function in `app/feature/tasks.py`."""
    module = function.__module__.removeprefix("app.").removesuffix(".tasks")
    return f"{module}.{function.__name__}"


def _read_signature(function: Callable[..., Any]) -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    """Return the types of the payload and of the result."""
    place = f"{function.__module__}.{function.__qualname__}"
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 2 or any(parameter.kind not in positional for parameter in parameters):
        raise TaskDefinitionError(f"{place}: a task takes two parameters, (context: TaskContext, payload: ...)")
    hints = get_type_hints(function, include_extras=True)
    missing = [p.name for p in parameters if p.name not in hints] + [x for x in ("return",) if x not in hints]
    if missing:
        raise TaskDefinitionError(f"{place}: annotate {', '.join(missing)}, so that JSON can be checked against it")
    try:
        return TypeAdapter(hints[parameters[1].name]), TypeAdapter(hints["return"])
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise TaskDefinitionError(f"{place}: payload and result must be types that JSON can carry. {reason}") from error
