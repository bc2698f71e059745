"""A task about to be recorded: its payload is checked, and its idempotency key is known."""

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from app.database import new_id
from app.queues.base import Message
from app.tasks.models import TaskStatus
from app.tasks.schemas import TaskAccepted

if TYPE_CHECKING:
    from app.tasks.definition import Task

P = TypeVar("P")

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL as JSON writes it, and not a backslash before the word u0000."""


class PayloadError(ValueError):
    """A payload that cannot be stored as JSON, or that the task would not get back from it as it is."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A key, where it counts, and the hash of what it was sent with: the same key means the same submission."""

    scope: str
    key: str
    payload_hash: str

    def numbered(self, number: int) -> "IdempotencyKey":
        """Return the key of a request's submission with that number; the first has the request's own key."""
        # A space, because no client's key has one.
        return self if number == 1 else IdempotencyKey(self.scope, f"{self.key} {number}", self.payload_hash)


@dataclass(frozen=True)
class NewTask:
    """A task about to be recorded."""

    id: UUID
    task: "Task[Any, Any]"
    payload: Any
    run_at: datetime | None = None
    owner: str = ""
    correlation_id: str | None = None
    traceparent: str | None = None
    key: IdempotencyKey | None = None

    @classmethod
    def of(
        cls,
        task: "Task[P, Any]",
        payload: P,
        *,
        run_at: datetime | None = None,
        owner: str = "",
        correlation_id: str | None = None,
        traceparent: str | None = None,
        key: IdempotencyKey | str | None = None,
    ) -> "NewTask":
        """Check a submission; a `key` that is a text counts among all submissions of the task by its owner.

        Raises PayloadError or, for a `run_at` without a time zone, ValueError.
        """
        if run_at is not None and run_at.tzinfo is None:
            raise ValueError(f"run_at={run_at!r} has no time zone: use datetime.now(UTC) + timedelta(...)")
        valid = task.payload.validate_python(payload)
        try:
            data = task.payload.dump_python(valid, mode="json", by_alias=True)
        except ValueError as error:
            raise PayloadError(f"the payload of {task.name} cannot be stored: {error}") from error
        problem = unstorable(data, task.payload, valid) or _changed_by_json(data, task.payload, valid)
        if problem is not None:
            raise PayloadError(f"the payload of {task.name} cannot be stored: {problem}")
        if isinstance(key, str):
            key = IdempotencyKey(f"task {task.name}", key, hash_json(data))
        return cls(new_id(), task, data, run_at, owner, correlation_id, traceparent, key)

    def row(self, via: str) -> dict[str, Any]:
        """Return the record as it begins."""
        key = self.key or IdempotencyKey("", "", "")
        return {
            "id": self.id,
            "name": self.task.name,
            "queue": self.task.queue,
            "payload": self.payload,
            "run_at": self.run_at,
            "sent_via": via,
            "owner": self.owner,
            "scope": key.scope,
            "idempotency_key": key.key or None,
            "payload_hash": key.payload_hash or None,
            "correlation_id": self.correlation_id,
            "traceparent": self.traceparent,
            "max_attempts": self.task.max_attempts,
        }

    def accepted(self, created_at: datetime) -> TaskAccepted:
        """Return the task as the API shows it once it is recorded."""
        return TaskAccepted(
            id=self.id,
            name=self.task.name,
            status=TaskStatus.PENDING,
            attempt=0,
            max_attempts=self.task.max_attempts,
            created_at=created_at,
            run_at=self.run_at or created_at,
        )

    def messages(self, created_at: datetime) -> list[Message]:
        """Return the message to send once it is committed; one that runs later needs none yet."""
        return [] if self.run_at is not None else [Message(self.task.queue, (self.id,), created_at)]


def hash_json(data: Any) -> str:
    """Return a hash that is the same for the same JSON, however it is laid out."""
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unstorable(data: Any, kind: TypeAdapter[Any], value: Any) -> str | None:
    """Return why `data`, which is a value of some kind as JSON, cannot be stored in a database, or None if it can."""
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair, which is not text"
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    if "null" in text and _lost_number(kind.dump_python(value, by_alias=True, warnings=False), data):
        return "NaN and infinite numbers are not JSON compliant"
    return "it holds a NUL character" if NUL.search(text) else None


def storable(text: str) -> str:
    """Return a text without what cannot be stored in a database: NULs, and halves of surrogate pairs."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _changed_by_json(data: Any, kind: TypeAdapter[Any], value: Any) -> str | None:
    """Return what a value of some kind loses as JSON, which `data` is; None if a worker reads the same value from it.

    A secret is dumped as asterisks, for example, and a key that is a tuple as a text that is none any more.
    """
    try:
        back = kind.dump_python(kind.validate_json(json.dumps(data)), warnings=False)
    except ValidationError as error:
        fields = [str(item["loc"][0]) for item in error.errors(include_input=False, include_url=False) if item["loc"]]
    else:
        before = kind.dump_python(value, warnings=False)
        if back == before:
            return None
        both = isinstance(before, dict) and isinstance(back, dict)
        fields = [str(name) for name in before if name not in back or back[name] != before[name]] if both else []
    where = ", ".join(dict.fromkeys(fields)) or "it"
    return f"JSON does not keep {where} as it is; use types that JSON can carry, and no SecretStr or tuples as keys"


def _lost_number(value: Any, data: Any) -> bool:
    """Tell whether a number has become null: Pydantic does that to NaN where a type is Any."""
    if isinstance(value, float):
        return data is None and not math.isfinite(value)
    if isinstance(value, dict) and isinstance(data, dict):
        return any(_lost_number(*pair) for pair in zip(value.values(), data.values(), strict=False))
    if isinstance(value, (list, tuple, set, frozenset)) and isinstance(data, list):
        return any(_lost_number(*pair) for pair in zip(value, data, strict=False))
    return False
