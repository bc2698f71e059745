"""Updates and the database: rows stay, revisions of template and user never compete, and released ones never change."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.combinations import ROOT, choices
from tests.support import commit, run, run_copier
from tests.test_copy_update import FEATURE, answers_of, assert_no_conflict, change
from tests.test_examples import IN_DATABASE
from tests.test_updates import NEWEST, RELEASES, history

STARTS = [
    (made, database)
    for made in RELEASES
    for database in choices()["database"]
    if made == NEWEST or database == "sqlite"
]
NEWER, NEXT = "v1000.0.0", "v1000.0.1"
NEW_REVISION = '''"""Something more about {table}."""

import sqlalchemy as sa
from alembic import op

revision = "{branch}_9999"
down_revision = "{branch}_{last}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("{table}", sa.Column("note", sa.String(length=20), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("{table}", "note")
'''
NOTE = "    note: Mapped[str | None] = mapped_column(String(20))\n"
ONE, MOMENT = "'00000000-0000-0000-0000-000000000001'", "'2026-01-01 00:00:00.000000'"
TASK = {
    "id": ONE,
    **dict.fromkeys(("name", "queue", "owner", "scope"), "'text'"),
    **dict.fromkeys(("version", "attempt", "crashes", "fence"), "0"),
    **dict.fromkeys(("run_at", "created_at"), MOMENT),
    "status": "'pending'",
    "payload": """'{"number": 7}'""",
    "max_attempts": "3",
}
ROWS = {
    "invoices": {"id": ONE, "number": "'2026-7'"},
    "reports": {"id": ONE, "title": "'Revenue'", "content": "'{}'", "created_at": MOMENT},
    "tasks": TASK,
}


@pytest.mark.parametrize(("made", "database"), STARTS)
def test_rows_stay_and_no_head_is_doubled(template: Path, tmp_path: Path, made: str, database: str) -> None:
    repository = history(template, tmp_path / "template", f"v{made}", NEWER, RELEASES[made])
    folder = tmp_path / "service"
    options = ["--defaults", "--vcs-ref", f"v{made}", "-d", f"database={database}"]
    run_copier("copy", *options, repository, folder, folder=tmp_path)
    (folder / "app" / "invoices").mkdir()
    (folder / "app" / "invoices" / "__init__.py").write_text(FEATURE["__init__.py"])
    (folder / "app" / "invoices" / "models.py").write_text(FEATURE["models.py"])
    commit(folder, "Add invoices")
    run("make", "setup", folder=folder)
    in_database(folder, "alembic upgrade heads", "alembic revision --autogenerate --head app@head -m invoices")
    [mine] = [path.stem[-12:] for path in (folder / "migrations" / "versions").glob("*invoices*")]
    commit(folder, "Add their migration")
    assert mine in heads(folder)
    statements = [
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})" for table, row in ROWS.items()
    ]
    in_database(folder, "alembic upgrade heads", *statements)
    before = rows(folder)

    release_migrations(repository)
    run_copier("update", "--defaults", "--trust", folder=folder)
    assert answers_of(folder)["_commit"] == NEXT
    assert_no_conflict(folder)
    run("make", "setup", folder=folder)
    assert heads(folder) == {"tasks_9999", "examples_9999", mine}
    in_database(folder, "alembic upgrade heads", "alembic check")
    assert rows(folder) == before
    assert in_database(folder, "SELECT note FROM reports").splitlines()[-1] == "[(None,)]"


def in_database(folder: Path, *commands: str) -> str:
    """Run commands of Alembic, and SQL, in the service's environment and with the database of `make dev`."""
    return run(folder / ".venv" / "bin" / "python", "-c", IN_DATABASE, *commands, folder=folder)


def heads(folder: Path) -> set[str]:
    """Return the heads of all branches."""
    return set(re.findall(r"^(\w+) .*\(head\)", in_database(folder, "alembic heads"), re.MULTILINE))


def rows(folder: Path) -> list[str]:
    """Return the rows that stand in the tables, as they were put in."""
    said = in_database(folder, *(f"SELECT {', '.join(row)} FROM {table}" for table, row in ROWS.items()))
    found = [line for line in said.splitlines() if line.startswith("[(")]
    assert len(found) == len(ROWS), said
    return found


def release_migrations(repository: Path) -> None:
    """Release a version in which the template's own branches have a revision more."""
    for branch, table, model in (("tasks", "task_queues", "tasks"), ("examples", "reports", "reports")):
        folder = repository / "template" / "migrations" / branch
        last = sorted(folder.glob("*.py"))[-1].name[:4]
        (folder / "9999_note.py").write_text(NEW_REVISION.format(branch=branch, table=table, last=last))
        models = repository / f"template/app/{model}/models.py"
        column = (
            "    probed_at: Mapped[datetime | None]\n" if branch == "tasks" else "    created_at: Mapped[datetime]\n"
        )
        change(models, column, column + NOTE)
    commit(repository, "Say more")
    run("git", "tag", NEXT, folder=repository)


@pytest.mark.parametrize("made", RELEASES)
def test_a_released_revision_is_never_changed(made: str) -> None:
    """Databases that have run it would differ from those that run it later."""
    listed = run("git", "ls-tree", "-r", "--name-only", RELEASES[made], "template/migrations", folder=ROOT).split()
    revisions = [path for path in listed if re.search(r"/\d{4}_\w+\.py$", path)]
    assert revisions
    for path in revisions:
        command = ["git", "show", f"{RELEASES[made]}:{path}"]
        assert (ROOT / path).read_bytes() == subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


def test_revisions_of_the_template_have_names_that_no_users_can_have() -> None:
    """A user's get random ids and stand in `versions`, where the template has one that is never followed by another."""
    for branch in ("tasks", "examples"):
        paths = sorted((ROOT / "template" / "migrations" / branch).glob("*.py"))
        ids = [re.findall(r'^revision\b.* = "(.+)"$', path.read_text(), re.MULTILINE) for path in paths]
        assert ids == [[f"{branch}_{path.name[:4]}"] for path in paths]
    assert [path.name for path in (ROOT / "template" / "migrations" / "versions").iterdir()] == ["0001_app.py"]
