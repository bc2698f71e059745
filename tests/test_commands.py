"""The commands of the pages, typed into a shell as they stand there, where a reader would type them."""

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import SEVERAL, URL, Check, Service, Typed
from tests.documents import blocks, pages, shell, tables, words
from tests.support import commit, free_port, render, run
from tests.test_container import command_of, process, servers, wait_until
from tests.test_copy_update import answers_of, change
from tests.test_dev import DEADLINE_SECONDS

PAGES = pages()
ADOPT = shell(PAGES["docs/how-to/adopt-an-existing-project.md"])
TUTORIAL = shell(PAGES["docs/tutorial.md"])
UPDATE = shell(PAGES["docs/how-to/update.md"])
HEALTH = Path("app") / "health.py"
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


def without(text: str, *starts: str) -> str:
    """Return the lines that start with none of these."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(starts))


def answering(text: str) -> list[str]:
    """Return the commands of a page that give answers to Copier, or copy; test_switch.py types those to a queue."""
    lines = [line.lstrip() for block in shell(text) for line in block.splitlines()]
    updates = [line for line in lines if line.startswith("make update") and "-d " in line]
    return [line for line in lines if line.startswith("copier ") or (line in updates and "task_queue" not in line)]


@pytest.mark.parametrize("path", [path for path in PAGES if answering(PAGES[path])])
def test_copier_does_what_the_pages_say(path: str, typed: Typed, template: Path, tmp_path: Path) -> None:
    """Each command by itself: copies into a new place, updates in a service, without the guards of `make update`."""
    for number, line in enumerate(answering(PAGES[path])):
        folder = tmp_path / str(number) / "service"
        folder.mkdir(parents=True)
        if " update" in line:
            render(template, folder, {})
            commit(folder, "Start from the template")
        typed(re.sub('^make update args="(.*)"$', r"copier update \1", line), folder)
        [made] = (tmp_path / str(number)).rglob(".copier-answers.yml")
        for name, value in re.findall(r"-d (\w+)=([\w-]+)", line):
            assert f"{name}: {value}\n" in made.read_text()


def test_the_tutorial_begins_with_a_commit(typed: Typed, tmp_path: Path) -> None:
    typed(without(TUTORIAL[0], "pipx ", "make dev"), tmp_path)
    assert run("git", "status", "--porcelain", folder=tmp_path / "orders") == ""
    assert yaml.safe_load((tmp_path / "orders/.copier-answers.yml").read_text())["_src_path"] == URL


def test_a_project_adopts_the_template(typed: Typed, tmp_path: Path) -> None:
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


def test_a_database_adopts_the_tables_of_the_tasks(typed: Typed, service: Service, tmp_path: Path) -> None:
    folder = service(database="sqlite")
    file = tmp_path / "data.db"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(f"""
            CREATE TABLE tasks (id INTEGER NOT NULL PRIMARY KEY);
            INSERT INTO tasks VALUES (8);
            CREATE TABLE parcels (id INTEGER NOT NULL PRIMARY KEY);
            INSERT INTO parcels VALUES (7);
            CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
            INSERT INTO alembic_version VALUES ('{LEGACY}');
        """)
    (folder / "app/parcels").mkdir()
    (folder / "app/parcels/__init__.py").write_text('"""Parcels."""\n')
    (folder / "app/parcels/models.py").write_text(MODELS)
    (tmp_path / "revision.py").write_text(REVISION)
    _, _, tables_of_tasks, stamp, *_ = [text.replace("/var/lib/orders/data.db", str(file)) for text in ADOPT]
    assert "table tasks already exists" in typed(tables_of_tasks, folder, rc=1)
    [rename] = re.findall(r"`(ALTER TABLE .*?)`", PAGES["docs/how-to/adopt-an-existing-project.md"])
    with closing(sqlite3.connect(file)) as database, database:
        names = "SELECT name FROM sqlite_master WHERE name LIKE 'task%' OR name = 'reports'"
        assert database.execute(names).fetchall() == [("tasks",)], "nothing has changed"
        database.execute(rename)
    text = f"{tables_of_tasks}\ncp {tmp_path}/revision.py migrations/versions/{LEGACY}.py\n{stamp}"
    said = typed(text, folder)
    assert "No new upgrade operations detected" in said
    assert "Running upgrade" not in typed(f"DATABASE_URL=sqlite:///{file} .venv/bin/alembic upgrade heads", folder)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT id FROM parcels").fetchall() == [(7,)]
        assert database.execute("SELECT id FROM errands").fetchall() == [(8,)]
        assert database.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_answers_that_are_lost_are_found_again(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    typed(f"copier copy -d project_slug=orders {URL} orders", tmp_path)
    before = answers_of(folder)
    (folder / ".copier-answers.yml").unlink()
    (folder / "mine.py").write_text("mine\n")
    with (folder / "README.md").open("a") as readme:
        readme.write("\nMine.\n")
    commit(folder, "Without answers")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "left_alone.py").touch()
    *_, compare, again = ADOPT
    said = typed(compare, folder)
    assert re.findall(r"^diff --git \S+ \w/(\S+)", said, re.MULTILINE) == ["README.md", "mine.py"]
    assert "\n+Mine.\n" in said
    typed(again, folder)
    assert answers_of(folder) == before


def test_an_update_its_conflict_and_what_has_to_run_afterwards(
    typed: Typed,
    service: Service,
    check: Check,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a fresh clone, as of a colleague; of the service's tests a few are enough here."""
    repository = tmp_path / "template"
    shutil.copytree(template, repository)
    made = service(database="sqlite")
    change(made / ".copier-answers.yml", f"_src_path: {template}\n", f"_src_path: {repository}\n")
    commit(made, "Start from the template")
    run("git", "clone", "--quiet", made, "fresh", folder=tmp_path)
    folder = tmp_path / "fresh"
    monkeypatch.setenv("PYTEST_ADDOPTS", "tests/test_settings.py")
    update, certain, theirs, resolved, *_ = UPDATE
    release(repository, "v0.1.1", "# From the new release.\n")
    assert " && make check\n" in update
    typed(update.replace(" && make check", ""), folder)
    assert " passed" in check(folder)
    commit(folder, "Take the new release over")
    change(folder / HEALTH, "# From the new release.\n", "# From the user.\n")
    commit(folder, "Say it differently")
    release(repository, "v0.1.2", "# From the newest release.\n")
    assert f"{HEALTH}: resolve the conflict" in typed(certain.replace("v0.1.0", "v0.1.2"), folder, rc=2)
    assert "<<<<<<< before updating" in (folder / HEALTH).read_text()
    typed(theirs, folder)
    assert (folder / HEALTH).read_text() == (repository / "template" / HEALTH).read_text()
    assert " passed" in typed(resolved, folder)
    assert run("git", "status", "--porcelain", folder=folder) == ""
    assert (folder / "app" / "new_in_v0_1_2.py").is_file()
    assert answers_of(folder)["_commit"] == "v0.1.2"

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


def release(repository: Path, version: str, line: str) -> None:
    """Release a version in which a file ends with another line, and another is new."""
    health = repository / "template" / HEALTH
    health.write_text(health.read_text().partition("\n\n\n# From")[0].rstrip() + f"\n\n\n{line}")
    name = f"new_in_{version.replace('.', '_')}"
    (repository / "template" / "app" / f"{name}.py").write_text(f'"""{name}."""\n')
    commit(repository, "Say more")
    run("git", "tag", version, folder=repository)


@pytest.mark.parametrize("number", range(len(SEVERAL)))
def test_a_readme_says_all_that_a_deployment_needs(
    number: int, typed: Typed, renderings: list[Path], tmp_path: Path
) -> None:
    rendered = renderings[number]
    page = (rendered / "README.md").read_text()
    [deploy] = [text for text in shell(page) if "docker compose up" in text]
    typed(without(deploy, "docker ", "make "), tmp_path)
    assert written(tmp_path) == needed(rendered)

    services = yaml.safe_load((rendered / "compose.yaml").read_text())["services"]
    [table] = [table for table in tables(page) if table[0][0] == "migrations"]
    names = {"migrations": "migrate", "API": "api"}
    said = {names.get(row[0], row[0]): words(row[1])[0].split() for row in table}
    own = {name: service for name, service in services.items() if "build" in service and name != "flower"}
    assert said == {name: service.get("command", command_of(rendered)) for name, service in own.items()}


def test_the_tutorial_from_its_files_to_a_task_in_production(
    typed: Typed, service: Service, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `make dev`, for which tests/test_docs.py types the rest, and without Docker."""
    folder = service(database="sqlite")
    commit(folder, "Start from the template")
    for block in blocks(PAGES["docs/tutorial.md"]):
        if block.path:
            (folder / block.path).parent.mkdir(exist_ok=True)
            (folder / block.path).write_text(block.content)
    run("make", "migrate", folder=folder)
    migration, tests, deploy, submit, ask = [
        text for text in TUTORIAL if re.search("make mig|make check|docker|KEY", text)
    ]
    typed(migration, folder)
    assert "make check\n" in tests
    typed(without(tests, "make check"), folder)
    assert " passed" in check(folder, "PYTEST_ADDOPTS=tests/test_invoices.py")

    typed(without(deploy, "docker "), folder)
    assert run("git", "status", "--porcelain", folder=folder) == ""
    assert written(folder) == needed(folder)
    url = f"127.0.0.1:{free_port()}"
    replaced = {"0.0.0.0": "127.0.0.1", "8000": url.rpartition(":")[2]}
    command = [replaced.get(word, word) for word in command_of(folder)]
    monkeypatch.setenv("PATH", f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("KEY", re.findall("^API_KEYS=shop:(.*)$", (folder / ".env").read_text(), re.MULTILINE)[0])
    with servers(folder, tmp_path / "data") as urls:
        environment = {**os.environ, **urls}
        run("env", *(f"{name}={value}" for name, value in urls.items()), "alembic", "upgrade", "heads", folder=folder)
        worker_command = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["worker"]["command"]
        with process(command, folder, environment) as api, process(worker_command, folder, environment) as worker:
            wait_until(
                lambda: run("python", "-m", "app.probe", f"http://{url}/health/live", folder=folder, rc=None) == "", api
            )
            refused = httpx.post(f"http://{url}/invoices", json={"customer": "Ada"}, timeout=DEADLINE_SECONDS)
            assert refused.status_code == 401
            accepted = typed(submit.replace("127.0.0.1:8000", url), folder)
            assert "202 Accepted" in accepted
            [task] = re.findall(r"^location: /tasks/(\S+)", accepted, re.MULTILINE)
            said = typed(without(ask, "docker ").replace("127.0.0.1:8000", url).replace("019a...", task), folder)
            assert '"status":"completed"' in said
    log = worker.output.read_text()
    for line in ("task started", "task completed"):
        assert line in [json.loads(entry)["event"] for entry in log.splitlines() if task in entry]


def written(folder: Path) -> set[str]:
    """Return which lines are in .env, once they are seen to be fit for what they are put into."""
    lines = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
    for name in lines.keys() - {"API_KEYS", "SMTP_URL"}:
        assert re.fullmatch(r"[\w-]{32,}", lines[name]), f"{name} cannot stand in a URL"
    return set(lines)


def needed(folder: Path) -> set[str]:
    """Return what compose and production refuse to start without, of a service."""
    compose = set(re.findall(r"\$\{(\w+):\?", (folder / "compose.yaml").read_text()))
    return compose | set(re.findall(r'"(\w+) is needed in production', (folder / "app/settings.py").read_text()))
