"""The page for whoever is called at night: what it has them type works, with each database."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.combinations import choices
from tests.conftest import Service
from tests.documents import Block, blocks, pages
from tests.reader import Reader
from tests.test_dev import DEADLINE_SECONDS, READY, MakeDev, make_dev, wait_until

PAGE = blocks(pages()["docs/how-to/debug-a-stuck-task.md"])
KEY = "the-key-of-the-tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
DOCKER = """\
#!/bin/sh
case "$*" in
"compose logs "*) cat "$LOG" ;;
"compose exec api "*) shift 3; exec "$@" ;;
esac
"""
"""What would be run in a container of the API runs here."""
FAIL = """UPDATE tasks SET status = 'failed', error = '{"type": "ValueError", "message": "..."}', result = NULL"""
REPORTS = 3


@pytest.mark.parametrize("database", choices()["database"])
def test_what_is_typed_at_night_is_answered(service: Service, database: str, tmp_path: Path) -> None:
    folder = service(database=database)
    with (
        make_dev(folder, API_KEYS=f"shop:{KEY}", LOG_FORMAT="json") as dev,
        httpx.Client(base_url=dev.url, headers=HEADERS, timeout=DEADLINE_SECONDS) as client,
    ):
        dev.until(READY)
        submitted = [submit(client, "/reports", {"title": str(number)}) for number in range(REPORTS)]
        submit(client, "/signups", {"name": "Ada", "email": "ada@example.org"})  # logs a warning: no e-mail can be sent
        wait_until(lambda: not unfinished(client))
        reader = Reader(dev, tmp_path, task=submitted[0], key=KEY)
        (reader.bin / "docker").write_text(DOCKER)
        (reader.bin / "docker").chmod(0o755)
        execute(dev, database, FAIL)

        for block in PAGE:
            match block:
                case Block("sql", text):
                    execute(dev, database, text)
                case Block("python", text):
                    assert '"limit": 100' in text
                    (tmp_path / "retry_failed.py").write_text(reader.here(text).replace('"limit": 100', '"limit": 2'))
                case Block("sh", text) if database == "sqlite" or "sqlite3" not in text:
                    said = reader.type(text.replace("/data/", f"{folder}/.dev/"))
                    assert "retry_failed" not in text or said.split() == retried(submitted)
                    wait_until(lambda: not unfinished(client))

        assert {client.get(f"/tasks/{task_id}").json()["status"] for task_id in submitted} == {"completed"}
        if database == "sqlite":
            with closing(sqlite3.connect(folder / ".dev" / "backup.db")) as backup:
                assert backup.execute("SELECT count(*) FROM tasks").fetchone()[0] > REPORTS


def submit(client: httpx.Client, path: str, body: dict[str, Any]) -> str:
    """Have something done; return the id of its task."""
    accepted = client.post(path, json=body)
    assert accepted.status_code == 202, accepted.text
    return accepted.headers["Location"].rpartition("/")[2]


def unfinished(client: httpx.Client) -> list[str]:
    """Return what has not ended yet."""
    answers = [client.get("/tasks", params={"status": status}).json() for status in ("pending", "running")]
    return [json.dumps(task) for answer in answers for task in answer["items"]]


def retried(submitted: list[str]) -> list[str]:
    """Return what the script prints: the newest comes first."""
    return [word for task_id in reversed(submitted) for word in (task_id, "ValueError")]


def execute(dev: MakeDev, database: str, statement: str) -> None:
    """Execute it as the page says."""
    if database == "sqlite":
        with closing(sqlite3.connect(dev.folder / ".dev" / "data.db")) as connection, connection:
            connection.execute(statement)
        return
    typed = f"\\set ON_ERROR_STOP on\n{statement};\n"
    done = subprocess.run(["make", "psql"], cwd=dev.folder, input=typed, capture_output=True, text=True)
    assert done.returncode == 0, done
