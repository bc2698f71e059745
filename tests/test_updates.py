"""Updates across releases: from each to the tree as it is, with the user's work on top."""

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.combinations import ROOT, Answers, label, options
from tests.conftest import Check
from tests.support import commit, run, run_copier
from tests.test_copy_update import answers_of, assert_no_conflict, change, contents, work_as_a_user
from tests.test_releases import numbers, releases

RELEASES = {release["version"]: release["commit"] for release in releases()}
NEWEST = next(reversed(RELEASES), "0.0.9")
CHECKED: list[Answers] = [
    {"database": "sqlite", "scheduler": "none", "license": "MIT"},
    {"task_queue": "celery", "database": "sqlite", "scheduler": "cron"},
]
"""After an update, services of these answers have to pass their own checks."""
ANSWERS: list[Answers] = [
    {},
    *CHECKED,
    {"task_queue": "celery", "broker": "rabbitmq", "scheduler": "external", "python_version": "3.13"},
    {"include_examples": False, "scheduler": "apscheduler"},
]
STARTS = [("simulated", answers) for answers in ANSWERS[:2]]
STARTS += [(made, answers) for made in RELEASES for answers in ANSWERS]


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


@pytest.mark.parametrize(
    ("made", "answers"), STARTS, ids=lambda value: value if isinstance(value, str) else label(value)
)
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
    if answers in CHECKED:
        run("make", "setup", folder=updated)
        tests = "PYTEST_ADDOPTS=tests/test_migrations.py tests/test_features.py tests/reports"
        said = check(updated, tests)
        assert " passed" in said.strip().splitlines()[-1]
