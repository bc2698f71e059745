"""Counting what real processes have fired, by the records, the rows that the runs left, and the processes' own logs."""

import json
from collections.abc import Iterable
from typing import Any

from app.database import Database
from app.tasks import TaskRecord
from app.tasks.scheduling import firing_key
from tests.scheduling.every_second import NAME
from tests.scheduling.rows import HOUR, last_of, set_last
from tests.support.records import effects, read_all
from tests.support.waiting import until


async def firings(database: Database) -> list[TaskRecord]:
    """Return the records of the tests' schedule."""
    return [record for record in await read_all(database) if (record.idempotency_key or "").startswith(f"{NAME} ")]


async def wait_for_firings(database: Database, more: int) -> None:
    """Wait until there have been so many more."""
    wanted = len(await firings(database)) + more

    async def there_are() -> bool:
        return len(await firings(database)) >= wanted

    await until(there_are)


async def wait_for_the_end(database: Database) -> list[TaskRecord]:
    """Let no more firings come, and wait until the tasks of all are done. Return their records."""
    last = await last_of(database, NAME)
    await set_last(database, NAME, -HOUR)

    async def all_are_done() -> bool:
        return all(record.status == "completed" for record in await firings(database))

    await until(all_are_done)
    records = await firings(database)
    assert last is not None
    assert firing_key(NAME, last) in {record.idempotency_key for record in records}
    return records


async def assert_each_happened_once(database: Database, records: list[TaskRecord]) -> None:
    """Each firing is one record, and has run once as far as it shows."""
    assert len({record.idempotency_key for record in records}) == len(records)
    assert all((record.owner, record.scope) == ("", "schedule") for record in records)
    ran = [name.split()[0] for name in await effects(database) if " " in name]
    assert sorted(ran) == sorted(str(record.id) for record in records)


def lines(logs: Iterable[str], event: str) -> list[dict[str, Any]]:
    """Return the log lines of an event about the tests' schedule, or about all."""
    read = [json.loads(line) for log in logs for line in log.splitlines() if line.startswith("{")]
    return [line for line in read if line["event"] == event and line.get("schedule", NAME) == NAME]


def report(name: str, records: list[TaskRecord], logs: list[str]) -> None:
    """Check the processes' own counts against the records, and print them (`-s` or `-rP` shows it)."""
    logged = len(lines(logs, "schedule fired"))
    refused = sum(line["refused"] for line in lines(logs, "schedules stopped"))
    print(f"{name}: {len(records)} firings, {logged} logged, {refused} duplicates refused")
    assert len(records) - 1 <= logged <= len(records)  # one that was killed may have had no time to log
