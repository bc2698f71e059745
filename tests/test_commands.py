"""The commands of the pages, typed into a shell as they stand there, where a reader would type them."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import SEVERAL, Service
from tests.documents import Block, commands, pages, shell, tables, words
from tests.support import TIMEOUT_SECONDS, commit, render, run

PAGES = pages()
ADOPT = shell(PAGES["docs/how-to/adopt-an-existing-project.md"])
TUTORIAL = shell(PAGES["docs/tutorial.md"])
UPDATE = shell(PAGES["docs/how-to/update.md"])
URL = "https://your.git.host/copier-fastapi-tasks.git"
COPIER = """\
#!/bin/sh
case " $* " in *" --defaults "*) ;; *) set -- "$@" --defaults ;; esac
exec "{python}" -m copier "$@"
"""
"""Copier as it is installed here; what it would ask gets the default answer."""
LEGACY = "4f1c2d3e5a6b"
REVISION = f'''\
"""The tables as they were."""

import sqlalchemy as sa
from alembic import op

revision = "{LEGACY}"
down_revision = "app_0001"


def upgrade() -> None:
    op.create_table("parcels", sa.Column("id", sa.Integer(), primary_key=True))
'''
MODELS = '''\
"""Parcels, as they were."""

from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Parcel(Base):
    """One of them."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
'''


@pytest.fixture
def typed(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Types text into a shell in a folder, and returns what is said; the first command that fails ends it.

    The pages' URL leads to the template as it is now.
    """
    copier = tmp_path / "bin" / "copier"
    copier.parent.mkdir()
    copier.write_text(COPIER.format(python=sys.executable))
    copier.chmod(0o755)
    monkeypatch.setenv("PATH", f"{copier.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{template}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", URL)

    def type_(text: str, folder: Path, given: str = "") -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", text],
            cwd=folder,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    return type_


def without(text: str, *starts: str) -> str:
    """Return the lines that start with none of these."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(starts))


@pytest.mark.parametrize("path", [path for path in PAGES if any("copier " in text for text in shell(PAGES[path]))])
def test_copier_does_what_the_pages_say(path: str, typed: Callable[..., str], template: Path, tmp_path: Path) -> None:
    """Each command by itself: copies into a new place, updates in a service."""
    lines = [line for text in shell(PAGES[path]) for line in text.splitlines() if line.lstrip().startswith("copier ")]
    for number, line in enumerate(lines):
        folder = tmp_path / str(number) / "service"
        folder.mkdir(parents=True)
        if " update" in line:
            render(template, folder, {})
            commit(folder, "Start from the template")
        typed(line, folder)
        [made] = (tmp_path / str(number)).rglob(".copier-answers.yml")
        [command] = commands(Block("sh", line))
        for name, _, value in (word.partition("=") for word in command if "=" in word and word[0] != "-"):
            assert f"{name}: {value}\n" in made.read_text()


def test_the_tutorial_begins_with_a_commit(typed: Callable[..., str], tmp_path: Path) -> None:
    typed(without(TUTORIAL[0], "pipx ", "make dev"), tmp_path)
    assert run("git", "status", "--porcelain", folder=tmp_path / "orders") == ""
    assert yaml.safe_load((tmp_path / "orders/.copier-answers.yml").read_text())["_src_path"] == URL


def test_a_project_adopts_the_template(typed: Callable[..., str], tmp_path: Path) -> None:
    project = tmp_path / "orders"
    project.mkdir()
    for name in ("README.md", "pyproject.toml", "mine.py"):
        (project / name).write_text("mine\n")
    commit(project, "What was there before")
    copy, restore, *_ = ADOPT
    assert "app/" in typed(copy, project)
    assert "mine" not in (project / "README.md").read_text()
    typed(restore, project, given="y\n")
    for name in ("README.md", "pyproject.toml", "mine.py"):
        assert (project / name).read_text() == "mine\n"
    assert "project_slug: orders" in (project / ".copier-answers.yml").read_text()


def test_a_database_adopts_the_tables_of_the_tasks(typed: Callable[..., str], service: Service, tmp_path: Path) -> None:
    folder = service(database="sqlite")
    file = tmp_path / "data.db"
    with sqlite3.connect(file) as database:
        database.executescript(f"""
            CREATE TABLE parcels (id INTEGER NOT NULL PRIMARY KEY);
            INSERT INTO parcels VALUES (7);
            CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
            INSERT INTO alembic_version VALUES ('{LEGACY}');
        """)
    (folder / "app/parcels").mkdir()
    (folder / "app/parcels/__init__.py").write_text('"""Parcels."""\n')
    (folder / "app/parcels/models.py").write_text(MODELS)
    (tmp_path / "revision.py").write_text(REVISION)
    _, _, tables_of_tasks, stamp, _ = ADOPT
    text = f"{tables_of_tasks}\ncp {tmp_path}/revision.py migrations/versions/{LEGACY}.py\n{stamp}"
    said = typed(text.replace("/var/lib/orders/data.db", str(file)), folder)
    assert "No new upgrade operations detected" in said
    assert "Running upgrade" not in typed(f"DATABASE_URL=sqlite:///{file} .venv/bin/alembic upgrade heads", folder)
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT id FROM parcels").fetchall() == [(7,)]
        assert database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_answers_that_are_lost_are_found_again(typed: Callable[..., str], tmp_path: Path) -> None:
    typed(f"copier copy -d project_slug=orders {URL} orders", tmp_path)
    answers = tmp_path / "orders" / ".copier-answers.yml"
    before = yaml.safe_load(answers.read_text())
    answers.unlink()
    commit(tmp_path / "orders", "Without answers")
    *_, again = ADOPT
    typed(again, tmp_path / "orders")
    assert yaml.safe_load(answers.read_text()) == before


def test_after_an_update_nothing_has_to_run(
    typed: Callable[..., str], service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh clone, as of a colleague; of the service's tests a few are enough here."""
    made = service(database="sqlite")
    commit(made, "Start from the template")
    run("git", "clone", "--quiet", made, "fresh", folder=tmp_path)
    folder = tmp_path / "fresh"
    monkeypatch.setenv("PYTEST_ADDOPTS", "tests/test_settings.py")
    update, certain, *_ = UPDATE
    said = typed(update, folder)
    assert "Success" in said
    assert " passed" in said
    typed(certain, folder)

    assert "Running upgrade" in run("make", "migrate", folder=folder)
    run("make", "migration", "m=nothing new", folder=folder)
    [revision] = (folder / "migrations" / "versions").glob("*nothing_new*.py")
    assert 'down_revision: str | Sequence[str] | None = "app_0001"' in revision.read_text()
    revision.unlink()
    with (folder / "app" / "main.py").open("a") as main:
        main.write("\n\n\n\n")
    run("make", "format", folder=folder)
    assert run("git", "status", "--porcelain", folder=folder) == ""
    assert "BROKER_URL is not set" in run("make", "api", folder=folder, rc=2)


@pytest.mark.parametrize("number", range(len(SEVERAL)))
def test_a_readme_says_all_that_a_deployment_needs(
    number: int, typed: Callable[..., str], renderings: list[Path], tmp_path: Path
) -> None:
    rendered = renderings[number]
    page = (rendered / "README.md").read_text()
    [deploy] = [text for text in shell(page) if "docker compose up" in text]
    assert written(typed, deploy, tmp_path) == needed(rendered)

    services = yaml.safe_load((rendered / "compose.yaml").read_text())["services"]
    [table] = [table for table in tables(page) if table[0][0] == "migrations"]
    said = {row[0]: words(row[1])[0].split() for row in table}
    names = {"migrations": "migrate", "API": "api"}
    for process in said.keys() - {"API"}:  # whose command is the image's own
        assert said[process] == services[names.get(process, process)]["command"]
    assert {names.get(process, process) for process in said} == {
        name for name, service in services.items() if "build" in service and name != "flower"
    }


def test_production_starts_with_what_the_tutorial_writes(
    typed: Callable[..., str], service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service(database="sqlite")
    assert written(typed, TUTORIAL[-1], folder) == needed(folder)
    for name, value in {
        "ENVIRONMENT": "production",
        "DATABASE_URL": f"sqlite:///{tmp_path}/data.db",
        "BROKER_URL": "redis://:secret@valkey:6379/0",
    }.items():
        monkeypatch.setenv(name, value)
    run(folder / ".venv/bin/python", "-c", "from app.settings import get_settings; get_settings()", folder=folder)


def written(typed: Callable[..., str], text: str, folder: Path) -> set[str]:
    """Type these commands, but for Docker's, and return which lines they have put into .env."""
    if (folder / "Makefile").exists():
        commit(folder, "Start from the template")
        (folder / "app" / "extra.py").touch()  # something to commit, as in the tutorial
        typed(without(text, "docker "), folder)
    else:
        typed(without(text, "docker ", "make "), folder)
    lines = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
    for name in lines.keys() - {"API_KEYS", "SMTP_URL"}:
        assert re.fullmatch(r"[\w-]{32,}", lines[name]), f"{name} cannot stand in a URL"
    return set(lines)


def needed(folder: Path) -> set[str]:
    """Return what compose and production refuse to start without, of a service."""
    compose = set(re.findall(r"\$\{(\w+):\?", (folder / "compose.yaml").read_text()))
    return compose | set(re.findall(r'"(\w+) is needed in production', (folder / "app/settings.py").read_text()))
