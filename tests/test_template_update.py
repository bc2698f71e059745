"""The generated workflow that looks for a newer template: its steps, with a stand-in for GitHub's own program."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import commit, render, run
from tests.test_copy_update import NEXT, answers_of, change, release

# Says what it was called with; GitHub knows no pull request yet.
GH = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
case "$2" in list) echo 0 ;; create) cp "${@: -1}" "$CALLS.md" ;; esac
"""


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A template of this test's own."""
    return Path(shutil.copytree(template, tmp_path / "template"))


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A service as the workflow finds it: a clone whose remote is what it was pushed to."""
    service = tmp_path / "service"
    render(repository, service, {"database": "sqlite"})
    run("uv", "lock", "--quiet", folder=service)
    commit(service, "Start from the template")
    run("git", "clone", "--quiet", "--bare", "service", "remote", folder=tmp_path)
    run("git", "clone", "--quiet", "remote", "clone", folder=tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    return tmp_path / "clone"


def run_steps(clone: Path) -> list[str]:
    """Run the steps as GitHub does, each in a shell of its own; return the calls of its program."""
    job = yaml.safe_load((clone / ".github/workflows/template-update.yml").read_text())["jobs"]["update"]
    temporary = clone.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    calls, kept = temporary / "calls", temporary / "env"
    calls.unlink(missing_ok=True)
    kept.write_text("")
    for step in job["steps"]:
        variables = dict(line.split("=", 1) for line in kept.read_text().splitlines())
        if "run" not in step or ("if" in step and variables.get("UPDATED") != "true"):
            continue
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))
        }
        environment = mine | {"BRANCH": job["env"]["BRANCH"], "CALLS": str(calls), **variables}
        environment |= {"RUNNER_TEMP": str(temporary), "GITHUB_ENV": str(kept)}
        environment["PATH"] = f"{clone.parent / 'bin'}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=clone, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return calls.read_text().splitlines() if calls.exists() else []


def test_without_a_newer_version_nothing_is_opened(clone: Path) -> None:
    assert run_steps(clone) == []
    assert "template-update" not in run("git", "branch", "--all", folder=clone)
    assert run("git", "status", "--porcelain", folder=clone) == ""


def test_a_newer_version_is_a_pull_request_that_names_the_conflicts(clone: Path, repository: Path) -> None:
    readme = clone / "README.md"
    readme.write_text(readme.read_text() + "\n## Ours\n")
    commit(clone, "Say something")
    release(repository)
    calls = run_steps(clone)
    assert calls[0] == "auth setup-git"
    assert re.match(rf"pr create --head template-update --title Update the template to {NEXT} ", calls[-1])
    body = (clone.parent / "temporary" / "calls.md").read_text()
    assert "README.md: resolve the conflict" in body
    assert answers_of(clone)["_commit"] == NEXT
    pushed = run("git", "show", "origin/template-update:README.md", folder=clone)
    assert "<<<<<<< before updating" in pushed


def test_the_branch_is_made_anew_unless_somebody_works_on_it(clone: Path, repository: Path) -> None:
    release(repository)
    assert run_steps(clone) != []

    assert run_steps(another(clone)) == [], "it has this version already"

    health = Path("app") / "health.py"
    release_again(repository, health, "v0.1.2")
    later = another(clone)
    assert re.match(r"pr create .* Update the template to v0\.1\.2 ", run_steps(later)[-1])

    with (later / health).open("a") as file:
        file.write("# From a person.\n")
    commit(later, "Resolve a conflict")
    run("git", "push", "--quiet", "origin", "template-update", folder=later)
    release_again(repository, health, "v0.1.3")
    assert run_steps(another(clone)) == []
    assert "# From a person.\n" in run("git", "show", f"template-update:{health}", folder=clone.parent / "remote")


def release_again(repository: Path, path: Path, version: str) -> None:
    """Release one more version, in which a file is longer."""
    change(repository / "template" / path, "# From the new release.\n", f"# From {version}.\n# From the new release.\n")
    commit(repository, "Say more")
    run("git", "tag", version, folder=repository)


def another(clone: Path) -> Path:
    """Return what the workflow finds the next time."""
    place = clone.parent / str(len(list(clone.parent.iterdir())))
    run("git", "clone", "--quiet", "remote", place, folder=clone.parent)
    return place
