"""Copy and update: they ask for no trust, and an update brings the template's changes without losing the user's."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.combinations import ROOT, Answers, choices, options
from tests.support import VERSION, commit, render, run, run_copier

NEXT = "v0.1.1"
UNSAFE = {"_tasks", "_jinja_extensions"}
FENCE = "# ---- your dependencies below this line"
SETTING = "    task_max_pending:"
FEATURE = {
    "__init__.py": '"""Invoices."""\n',
    "models.py": '''"""The table of invoices."""

from uuid import UUID

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Invoice(Base):
    """One invoice."""

    __tablename__ = "invoices"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(String(20))
''',
    "tasks.py": '"""Sending invoices."""\n\nfrom app.tasks import TaskContext, task\n\n\n'
    "@task()\nasync def send_invoice(context: TaskContext, number: int) -> int:\n"
    '    """Send it."""\n    return number\n',
}

REVISION = '''"""Add invoices."""

import sqlalchemy as sa
from alembic import op

revision = "5b8f0c2a9d31"
down_revision = "app_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("invoices")
'''


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A template of this test's own."""
    return Path(shutil.copytree(template, tmp_path / "template"))


@pytest.fixture
def generated(repository: Path, tmp_path: Path) -> Path:
    """A service made from the first release, committed."""
    run_copier("copy", "--defaults", "--vcs-ref", VERSION, repository, "service", folder=tmp_path)
    commit(tmp_path / "service", "Start from the template")
    return tmp_path / "service"


def test_nothing_asks_for_trust() -> None:
    content = yaml.safe_load((ROOT / "copier.yml").read_text())
    assert not UNSAFE & content.keys(), "updates out of a release that has one would need --trust for ever"
    for migration in content.get("_migrations", []):
        assert "version" in migration, "every update would need --trust"


def test_a_copy_says_what_to_do_next(template: Path, tmp_path: Path) -> None:
    said = run_copier("copy", "--defaults", template, "service", folder=tmp_path)
    assert "trust" not in said
    for step in ("cd service", "git init && git add --all && git commit", "make dev", "make test"):
        assert step in said
    assert answers_of(tmp_path / "service")["_src_path"] == str(template)


def test_an_update_keeps_what_the_user_did(repository: Path, generated: Path) -> None:
    work_as_a_user(generated)
    release(repository)
    said = run_copier("update", "--defaults", folder=generated)
    assert "trust" not in said
    assert "is updated. Next" in said

    assert answers_of(generated)["_commit"] == NEXT
    assert_no_conflict(generated)
    for name, text in FEATURE.items():
        assert (generated / "app" / "invoices" / name).read_text() == text
    assert (generated / "migrations" / "versions" / "add_invoices.py").read_text() == REVISION
    assert (generated / ".env").read_text() == "LOG_LEVEL=DEBUG\n"
    readme, project = (generated / name for name in ("README.md", "pyproject.toml"))
    assert "Ask Ana about the invoices." in readme.read_text()
    assert "## From the new release" in readme.read_text()
    assert '"stamina>=25"' in project.read_text().partition(FENCE)[2]
    assert '"zstandard>=0.25"' in project.read_text().partition(FENCE)[0]
    assert (generated / "app" / "health.py").read_text().endswith("# From the new release.\n")
    assert (generated / "app" / "novelty.py").is_file()
    assert answers_of(generated)["novelty"] == "some"


@pytest.mark.usefixtures("faster_copier")
def test_the_guarded_update_names_what_needs_a_person(repository: Path, generated: Path) -> None:
    work_as_a_user(generated)
    release(repository)
    run("make", "setup", folder=generated)
    commit(generated, "Lock")
    run("make", "update", folder=generated)
    assert answers_of(generated)["_commit"] == NEXT
    assert_no_conflict(generated)

    commit(generated, "Take the new release over")
    health = Path("app") / "health.py"
    change(generated / health, "# From the new release.\n", "# From the user.\n")
    commit(generated, "Say it differently")
    change(repository / "template" / health, "# From the new release.\n", "# From the newest release.\n")
    commit(repository, "Say it differently")
    run("git", "tag", "v0.1.2", folder=repository)
    said = run("make", "update", folder=generated, rc=2)
    assert f"{health}: resolve the conflict" in said


@pytest.mark.parametrize("database", choices()["database"])
def test_other_answers_make_what_a_copy_would(template: Path, tmp_path: Path, database: str) -> None:
    other = next(value for value in choices()["database"] if value != database)
    switched, expected = tmp_path / "switched", tmp_path / "expected"
    render(template, switched, {"database": other, "include_examples": False})
    commit(switched, "Start from the template")
    answers: Answers = {"database": database, "include_examples": True}
    run_copier("update", "--defaults", "--vcs-ref", ":current:", *options(answers), folder=switched)
    render(template, expected, answers)
    assert contents(switched) == contents(expected)


def label_of_queue(answers: Answers) -> str:
    """Return a short name."""
    return f"{answers['task_queue']}_{answers['broker']}"


QUEUES: list[Answers] = [
    {"task_queue": "arq", "broker": "redis"},
    {"task_queue": "celery", "broker": "redis"},
    {"task_queue": "celery", "broker": "rabbitmq"},
]


@pytest.mark.parametrize(
    ("before", "after"), list(zip(QUEUES, QUEUES[1:] + QUEUES[:1], strict=True)), ids=label_of_queue
)
def test_another_queue_leaves_nothing_of_the_one_before_and_the_users_work_alone(
    template: Path, tmp_path: Path, before: Answers, after: Answers
) -> None:
    """The same as a copy with the other answers, to which the user's own work is then added."""
    switched, expected = tmp_path / "switched", tmp_path / "expected"
    run_copier("copy", "--defaults", "--vcs-ref", VERSION, *options(before), template, "switched", folder=tmp_path)
    commit(switched, "Start from the template")
    work_as_a_user(switched)
    run_copier("update", "--defaults", "--vcs-ref", ":current:", *options(after), folder=switched)
    assert_no_conflict(switched)
    run_copier("copy", "--defaults", "--vcs-ref", VERSION, *options(after), template, "expected", folder=tmp_path)
    work_as_a_user(expected)
    assert contents(switched) == contents(expected)


@pytest.mark.parametrize("scheduler", choices()["scheduler"])
def test_another_scheduler_leaves_nothing_of_the_one_before(template: Path, tmp_path: Path, scheduler: str) -> None:
    every = choices()["scheduler"]
    before = every[every.index(scheduler) - 1]
    switched, expected = tmp_path / "switched", tmp_path / "expected"
    render(template, switched, {"scheduler": before})
    work_as_a_user(switched)
    run_copier("update", "--defaults", "--vcs-ref", ":current:", "-d", f"scheduler={scheduler}", folder=switched)
    render(template, expected, {"scheduler": scheduler})
    work_as_a_user(expected)
    assert_no_conflict(switched)
    assert contents(switched) == contents(expected)


def work_as_a_user(folder: Path) -> None:
    """Add a feature, a migration and a dependency, edit the README, set something, and commit."""
    (folder / "app" / "invoices").mkdir()
    for name, text in FEATURE.items():
        (folder / "app" / "invoices" / name).write_text(text)
    (folder / "migrations" / "versions" / "add_invoices.py").write_text(REVISION)
    (folder / ".env").write_text("LOG_LEVEL=DEBUG\n")
    readme, project = (folder / name for name in ("README.md", "pyproject.toml"))
    change(readme, "## Run it\n", "Ask Ana about the invoices.\n\n## Run it\n")
    fence = next(line for line in project.read_text().splitlines() if FENCE in line)
    change(project, f"{fence}\n", f'{fence}\n    "stamina>=25",\n')
    change(folder / "app" / "settings.py", SETTING, f"    invoice_limit: int = 100\n\n{SETTING}")
    commit(folder, "Add invoices")


def release(repository: Path) -> None:
    """Release a version with a changed file, a new one, a new dependency, a new paragraph and a new question."""
    source = repository / "template"
    with (source / "app" / "health.py").open("a") as health:
        health.write("# From the new release.\n")
    (source / "app" / "novelty.py").write_text('"""Something new."""\n')
    with (source / "README.md.jinja").open("a") as readme:
        readme.write("\n## From the new release\n\nIt says more.\n")
    change(source / "pyproject.toml.jinja", f"    {FENCE}", f'    "zstandard>=0.25",\n    {FENCE}')
    with (repository / "copier.yml").open("a") as questions:
        questions.write("\nnovelty:\n  type: str\n  default: some\n  help: How much of it?\n")
    commit(repository, "Something new")
    run("git", "tag", NEXT, folder=repository)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def answers_of(folder: Path) -> dict[str, str]:
    answers: dict[str, str] = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    return answers


def assert_no_conflict(folder: Path) -> None:
    assert run("git", "ls-files", "--unmerged", folder=folder) == ""
    assert run("git", "grep", "-l", "--untracked", "-E", "^(<<<<<<<|>>>>>>>)", folder=folder, rc=None) == ""
    assert not list(folder.rglob("*.rej"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files by their paths."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_was_deleted_stays_deleted_and_answers_that_are_gone_are_left_out(
    repository: Path, generated: Path
) -> None:
    gone = (generated / "app" / "health.py", generated / ".github" / "dependabot.yml")
    for path in gone:
        path.unlink()
    with (generated / ".copier-answers.yml").open("a") as answers:
        answers.write("pet: dog\n")
    commit(generated, "Do without them")
    release(repository)  # which changes one of them
    run_copier("update", "--defaults", folder=generated)
    assert_no_conflict(generated)
    assert answers_of(generated)["_commit"] == NEXT
    assert "pet" not in answers_of(generated)
    assert not any(path.exists() for path in gone)
