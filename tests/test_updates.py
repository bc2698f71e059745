"""Updates across releases: the user's work and data stay, and revisions never compete."""

import io
import re
import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.combinations import ROOT, Answers, label, options
from tests.conftest import Check, Service
from tests.support import commit, run, run_copier
from tests.test_copy_update import FEATURE, answers_of, assert_no_conflict, change, contents, work_as_a_user
from tests.test_releases import numbers, releases

RELEASES = {release["version"]: release["commit"] for release in releases()}
NEWEST = next(reversed(RELEASES), "0.0.9")
NEXT = "v0.1.1"
CHECKED: Answers = {"database": "sqlite", "scheduler": "none", "license": "MIT"}
"""After an update, a service of these answers has to pass its own checks."""
ANSWERS: list[Answers] = [
    {},
    CHECKED,
    {"task_queue": "celery", "broker": "rabbitmq", "scheduler": "external", "python_version": "3.13"},
    {"task_queue": "celery", "database": "sqlite", "scheduler": "cron"},
    {"include_examples": False, "scheduler": "apscheduler"},
]
NEW_REVISION = '''"""Something more about {table}."""

import sqlalchemy as sa
from alembic import op

revision = "{branch}_0002"
down_revision = "{branch}_0001"
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


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A template of this test's own, with the current tree as its one release."""
    return Path(shutil.copytree(template, tmp_path / "template"))


def hooks() -> list[tuple[int, ...]]:
    """Return the versions of the releases that bring something to run."""
    content = yaml.safe_load((ROOT / "copier.yml").read_text())
    return [numbers(hook["version"].removeprefix("v")) for hook in content.get("_migrations", [])]


def upcoming() -> tuple[int, ...]:
    """Return the version of the current tree: the next one, or a later one that has a hook already."""
    major, minor, _ = numbers(NEWEST)
    return max([(major, minor + 1, 0), *hooks()])


def history(template: Path, folder: Path, older: str, newer: str, commit_of_older: str | None) -> Path:
    """Make a template with two releases: one as it was at a commit (or a simulated one), and the current tree."""
    if commit_of_older is None:
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"))
        grow_younger(folder)
    else:
        archive = run_bytes("git", "archive", "--format=tar", commit_of_older)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    commit(folder, "An older release")
    run("git", "tag", older, folder=folder)
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    commit(folder, "The template as it is")
    run("git", "tag", newer, folder=folder)
    return folder


def run_bytes(*command: str) -> bytes:
    """Run a command of git in this repository, and return its output."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


def grow_younger(folder: Path) -> None:
    """Make the tree what an older release could have been: without some files, with others, with other words."""
    source = folder / "template"
    shutil.rmtree(source / ".github")
    (source / "app" / "probe.py").unlink()
    (source / "app" / "obsolete.py").write_text('"""What a later release has dropped."""\n')
    (source / "app" / "limits.py").write_text('"""It was much shorter once."""\n')
    change(source / "pyproject.toml.jinja", '    "uuid-utils>=1",\n', '    "uuid6>=2024",\n')
    change(source / "README.md.jinja", "## Watch it\n", "## Keep an eye on it\n")
    questions = (folder / "copier.yml").read_text()
    without = re.sub(r"^license:\n.*?\n\n", "", questions, flags=re.DOTALL | re.MULTILINE)
    assert without != questions
    (folder / "copier.yml").write_text(without)
    licensed = source / "pyproject.toml.jinja"
    licensed.write_text("{% set license = 'proprietary' %}" + licensed.read_text())
    (source / "LICENSE.jinja").unlink()


def edit_the_example(folder: Path) -> None:
    """Change an example in two places, as people do who build on it; the test reads them again."""
    tasks = folder / "app" / "reports" / "tasks.py"
    if tasks.is_file():
        change(tasks, "@task(timeout=120)", "@task(timeout=240, max_attempts=7)")
        change(tasks, '"storing the report"', '"storing it for the accountants"')
        commit(folder, "Give the report longer")


@pytest.mark.parametrize("answers", ANSWERS, ids=label)
@pytest.mark.parametrize("made", [*RELEASES, "simulated"])
def test_an_update_from_an_older_release_is_what_a_copy_with_the_same_work_would_be(
    template: Path, tmp_path: Path, check: Check, made: str, answers: Answers
) -> None:
    version = NEWEST if made == "simulated" else made
    older, newer = f"v{version}", f"v{'.'.join(map(str, upcoming()))}"
    repository = history(template, tmp_path / "template", older, newer, RELEASES.get(made))
    updated, expected = tmp_path / "updated", tmp_path / "expected"
    run_copier("copy", "--defaults", "--vcs-ref", older, *options(answers), repository, "updated", folder=tmp_path)
    commit(updated, "Start from the template")
    work_as_a_user(updated)
    edit_the_example(updated)

    given = options({name: value for name, value in answers.items() if name not in answers_of(updated)})
    update = ["update", "--defaults", "--vcs-ref", newer, *given]
    crosses = any(numbers(version) < hook <= upcoming() for hook in hooks())
    said = run_copier(*update, folder=updated, rc=4 if crosses else 0)
    assert ("trust" in said) == crosses
    if crosses:
        run_copier(*update, "--trust", folder=updated)
    assert answers_of(updated)["_commit"] == newer
    assert_no_conflict(updated)

    run_copier("copy", "--defaults", "--vcs-ref", newer, *options(answers), repository, "expected", folder=tmp_path)
    work_as_a_user(expected)
    edit_the_example(expected)
    assert contents(updated) == contents(expected)
    if answers == CHECKED:
        run("make", "setup", folder=updated)
        tests = "PYTEST_ADDOPTS=tests/test_migrations.py tests/test_features.py tests/reports"
        said = check(updated, tests)
        assert " passed" in said.strip().splitlines()[-1]


def test_rows_stay_and_no_head_is_doubled(service: Service, repository: Path) -> None:
    folder = service(database="sqlite")
    url = {"DATABASE_URL": f"sqlite:///{folder.parent / f'{folder.name}.db'}"}
    database = sqlite3.connect(folder.parent / f"{folder.name}.db")
    answers = folder / ".copier-answers.yml"
    answers.write_text(re.sub(r"^_src_path: .*$", f"_src_path: {repository}", answers.read_text(), flags=re.MULTILINE))
    (folder / "app" / "invoices").mkdir()
    (folder / "app" / "invoices" / "__init__.py").write_text('"""Invoices."""\n')
    (folder / "app" / "invoices" / "models.py").write_text(FEATURE["models.py"])
    commit(folder, "Add invoices")
    alembic(folder, url, "upgrade", "heads")
    alembic(folder, url, "revision", "--autogenerate", "--head", "app@head", "-m", "add invoices")
    commit(folder, "Add their migration")
    alembic(folder, url, "upgrade", "heads")
    [mine] = [head for head in heads(folder, url) if "_" not in head]
    assert heads(folder, url) == {"examples_0001", mine}, "mine depends on the tables of the tasks"

    moment, one = "2026-01-01 00:00:00.000000", "00000000000000000000000000000001"
    with database:
        insert(database, "invoices", id=one, number="2026-7")
        insert(database, "reports", id=one, title="Revenue", content="{}", created_at=moment)
        insert(
            database,
            "tasks",
            **dict.fromkeys(("name", "queue", "owner", "scope"), "text"),
            **dict.fromkeys(("version", "attempt", "crashes", "fence"), 0),
            **dict.fromkeys(("run_at", "created_at"), moment),
            id=one,
            status="pending",
            payload='{"number": 7}',
            max_attempts=3,
        )
        before = rows(database)

    release_migrations(repository)
    run_copier("update", "--defaults", folder=folder)
    assert answers_of(folder)["_commit"] == NEXT
    assert_no_conflict(folder)
    assert heads(folder, url) == {"tasks_0002", "examples_0002", mine}
    alembic(folder, url, "upgrade", "heads")
    alembic(folder, url, "check")
    assert [row[:-1] if len(row) > len(old) else row for row, old in zip(rows(database), before, strict=True)] == before
    assert database.execute("SELECT note FROM reports").fetchall() == [(None,)]
    database.close()


def alembic(folder: Path, variables: dict[str, str], *arguments: str) -> str:
    """Run Alembic in the service's environment."""
    given = [f"{name}={value}" for name, value in variables.items()]
    return run("env", *given, folder / ".venv" / "bin" / "python", "-m", "alembic", *arguments, folder=folder)


def heads(folder: Path, variables: dict[str, str]) -> set[str]:
    """Return the heads of all branches."""
    return set(re.findall(r"^(\w+) .*\(head\)", alembic(folder, variables, "heads"), re.MULTILINE))


def insert(database: sqlite3.Connection, table: str, **values: str | int) -> None:
    names, places = ", ".join(values), ", ".join("?" for _ in values)
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(values.values()))


def rows(database: sqlite3.Connection) -> list[tuple[str | int | None, ...]]:
    """Return every row of the three tables, one after the other."""
    tables = ("invoices", "reports", "tasks")
    return [row for table in tables for row in database.execute(f"SELECT * FROM {table} ORDER BY id")]


def release_migrations(repository: Path) -> None:
    """Release a version in which the template's own branches have a revision more."""
    for branch, table, model in (("tasks", "task_queues", "tasks"), ("examples", "reports", "reports")):
        revision = NEW_REVISION.format(branch=branch, table=table)
        (repository / f"template/migrations/{branch}/0002_note.py").write_text(revision)
        models = repository / f"template/app/{model}/models.py"
        last = "    probed_at: Mapped[datetime | None]\n" if branch == "tasks" else "    created_at: Mapped[datetime]\n"
        change(models, last, last + NOTE)
    commit(repository, "Say more")
    run("git", "tag", NEXT, folder=repository)


def test_revisions_of_the_template_have_names_that_no_users_can_have() -> None:
    """A user's get random ids and stand in `versions`, where the template has one that is never followed by another."""
    for branch in ("tasks", "examples"):
        paths = sorted((ROOT / "template" / "migrations" / branch).glob("*.py"))
        ids = [re.findall(r'^revision\b.* = "(.+)"$', path.read_text(), re.MULTILINE) for path in paths]
        assert ids == [[f"{branch}_{path.name[:4]}"] for path in paths]
    assert [path.name for path in (ROOT / "template" / "migrations" / "versions").iterdir()] == ["0001_app.py"]
