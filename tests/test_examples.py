"""Leaving the examples out of a service that has run, and taking them in again: its database goes along."""

import pytest

from tests.combinations import choices
from tests.conftest import Service
from tests.documents import blocks, pages
from tests.support import commit, run, run_copier

# Runs commands and SQL in the service's own environment, with the database of `make dev`.
IN_DATABASE = """
import asyncio, os, sys
from alembic.config import main
from sqlalchemy import text
from app.database import connect
from scripts.environment import DATA
from scripts.servers import embedded_servers
from scripts.servers.process import running

async def execute(statement):
    engine = connect(os.environ["DATABASE_URL"], pool_size=1)
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        print(result.fetchall() if result.returns_rows else "")
    await engine.dispose()

[server] = [server for server in embedded_servers(DATA) if server.variable == "DATABASE_URL"]
with running(server) as url:
    os.environ["DATABASE_URL"] = url
    for command in sys.argv[1:]:
        if command.startswith("alembic "):
            main(command.split()[1:])
        else:
            asyncio.run(execute(command))
"""
ROW = "INSERT INTO reports VALUES ('00000000000000000000000000000001', 'Revenue', '{}', '2026-01-01 00:00:00.000000')"
ROWS = "SELECT title FROM reports"
# The examples' one comes last: the other's id is random.
HEADS = "SELECT version_num FROM alembic_version ORDER BY version_num = 'examples_0001', version_num"
MIGRATION = "alembic revision --autogenerate --head app@head -m nothing"
PAGE = blocks(pages()["docs/how-to/switch-the-queue.md"])
STAY = "their tables (examples_0001) stay until you drop them"


@pytest.mark.parametrize("database", choices()["database"])
def test_the_examples_can_be_left_out_and_taken_in_again(service: Service, database: str) -> None:
    folder = service(database=database)
    python = folder / ".venv" / "bin" / "python"

    def in_database(*commands: str) -> str:
        return run(python, "-c", IN_DATABASE, *commands, folder=folder)

    def answer(examples: bool) -> None:
        commit(folder, "The service as it is")
        answer = f"include_examples={examples}"
        run_copier("update", "--defaults", "--vcs-ref", ":current:", "-d", answer, folder=folder)

    in_database("alembic upgrade heads", ROW)
    answer(False)
    said = in_database("alembic upgrade heads", "alembic check", MIGRATION, "alembic upgrade heads", ROWS, HEADS)
    assert STAY in said
    assert "[('Revenue',)]" in said
    [written] = (folder / "migrations" / "versions").glob("*nothing*.py")
    assert "op." not in written.read_text(), "nothing is to be dropped"
    mine = written.stem[-12:]
    code = (
        "import sys; from app.health import _is_behind; print([_is_behind(('examples_0001', r)) for r in sys.argv[1:]])"
    )
    assert run(python, "-c", code, "app_0001", mine, folder=folder) == "[True, False]\n", "it is ready with its own"

    answer(True)
    said = in_database("alembic upgrade heads", "alembic check", ROWS, HEADS)
    assert STAY not in said
    assert "[('Revenue',)]" in said
    assert f"[('{mine}',), ('examples_0001',)]" in said

    # Once more without them, and their tables are dropped by hand.
    commit(folder, "With the examples")
    without = run("git", "rev-parse", "HEAD~1", folder=folder).strip()
    run("git", "checkout", "--quiet", without, folder=folder)
    [statements] = [block.text for block in PAGE if block.language == "sql"]
    said = in_database(*statements.split(";\n")[:-1], "alembic upgrade heads", "alembic check", HEADS)
    assert STAY not in said
    assert said.endswith(f"[('{mine}',)]\n")
    run("git", "checkout", "--quiet", "-", folder=folder)
    said = in_database("alembic upgrade heads", "alembic check", ROWS, HEADS)
    assert said.endswith(f"[]\n[('{mine}',), ('examples_0001',)]\n")


def test_tables_that_a_revision_has_made_are_dropped_with_their_model(service: Service) -> None:
    folder = service(database="sqlite")
    python = folder / ".venv" / "bin" / "python"
    others = "CREATE TABLE others (id INTEGER PRIMARY KEY)"
    run(python, "-c", IN_DATABASE, "alembic upgrade heads", others, folder=folder)
    models = folder / "app" / "signups" / "models.py"
    models.write_text(models.read_text().replace("class AuditLine(Base):", "class AuditLine:"))
    said = run(python, "-c", IN_DATABASE, "alembic check", folder=folder, rc=255)
    assert "remove_table" in said
    assert "audit_lines" in said
    assert "others" not in said


def test_their_tables_are_dropped_as_the_page_says(service: Service) -> None:
    folder = service(database="sqlite")
    python = folder / ".venv" / "bin" / "python"
    tables = "SELECT name FROM sqlite_master WHERE name IN ('reports', 'signups', 'tasks')"
    run(python, "-c", IN_DATABASE, "alembic upgrade heads", folder=folder)
    [block] = [block.text for block in PAGE if "downgrade" in block.text]
    place = folder / ".dev" / "data.db"
    run("sh", "-ec", block.replace("/var/lib/orders/data.db", str(place)), folder=folder)
    assert run(python, "-c", IN_DATABASE, tables, folder=folder) == "[('tasks',)]\n"
