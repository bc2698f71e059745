"""The generated workflow that looks for a newer template: its steps, with a stand-in for GitHub's own program."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.combinations import ROOT
from tests.support import COPIER, commit, render, run
from tests.test_copy_update import NEXT, answers_of, change, release

GH = f"""#!/bin/sh
exec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "tests" / "github.py"))} "$@"
"""
MAKE = f"""#!/bin/sh
exec {shlex.quote(sys.executable)} -c {shlex.quote(COPIER)} update --defaults
"""
"""`make update` without its rehearsal, for the tests of what is done with branches."""
HEALTH = Path("app") / "health.py"
HOOK = """
_migrations:
  - version: v0.1.1
    command: ["{{ _copier_python }}", --version]
"""


@pytest.fixture
def repository(smaller_template: Path, tmp_path: Path) -> Path:
    """A template of this test's own."""
    return Path(shutil.copytree(smaller_template, tmp_path / "template"))


@pytest.fixture
def github(repository: Path, tmp_path: Path) -> Path:
    """A service at GitHub: `remote` in this folder, beside the program and its pull requests."""
    service = tmp_path / "service"
    render(repository, service, {"database": "sqlite"})
    run("uv", "lock", "--quiet", folder=service)
    commit(service, "Start from the template")
    run("git", "clone", "--quiet", "--bare", "service", "remote", folder=tmp_path)
    install(tmp_path, "gh", GH)
    (tmp_path / "pull_requests.json").write_text("[]")
    return tmp_path


@pytest.fixture
def quick(github: Path) -> Path:
    """The same, where an update takes a third of the time."""
    install(github, "make", MAKE)
    return github


def install(folder: Path, name: str, text: str) -> None:
    """Put a program where the steps find it first."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)


def check_out(github: Path) -> Path:
    """Return a new clone of the service, as the workflow has it each time."""
    place = github / f"clone{len(list(github.iterdir()))}"
    run("git", "clone", "--quiet", "remote", place, folder=github)
    return place


def run_steps(clone: Path, *, rc: int = 0) -> str:
    """Run the steps as GitHub does, each in a shell of its own until one fails; return what they say."""
    github = clone.parent
    job = yaml.safe_load((clone / ".github/workflows/template-update.yml").read_text())["jobs"]["update"]
    kept = github / "env"
    kept.write_text("")
    said = ""
    for step in job["steps"]:
        variables = dict(line.split("=", 1) for line in kept.read_text().splitlines())
        if "run" not in step or ("if" in step and variables.get("UPDATED") != "true"):
            continue
        variables |= {name: secret(value) for name, value in step.get("env", {}).items()} | job["env"]
        variables |= {"RUNNER_TEMP": str(github), "GITHUB_ENV": str(kept), "GITHUB_REPOSITORY": "someone/service"}
        variables |= {"PULL_REQUESTS": str(github / "pull_requests.json")}
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_AUTHOR", "GIT_COMMIT"))}
        environment = mine | variables | {"PATH": f"{github / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        command = ["bash", "-e", "-c", step["run"]]
        done = subprocess.run(
            command, cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        said += done.stdout + done.stderr
        if done.returncode != 0:
            break
    assert done.returncode == rc, said
    return said


def secret(expression: str) -> str:
    """Return what GitHub puts in, where the repository has no secrets."""
    return "the-token-of-the-job" if expression.endswith("|| github.token }}") else ""


def pull_requests(github: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((github / "pull_requests.json").read_text())
    return found


def titles(github: Path) -> list[str]:
    return [each["title"].removeprefix("Update the template to ") for each in pull_requests(github)]


def end(github: Path, state: str) -> None:
    """Merge or close the last pull request."""
    known = pull_requests(github)
    branch = run("git", "rev-parse", "template-update", folder=github / "remote").strip()
    known[-1] |= {"state": state, "headRefOid": branch}
    (github / "pull_requests.json").write_text(json.dumps(known))


def release_again(repository: Path, version: str) -> None:
    """Release one more version, in which a file is longer."""
    longer = f"# From {version}.\n# From the new release.\n"
    change(repository / "template" / HEALTH, "# From the new release.\n", longer)
    commit(repository, "Say more")
    run("git", "tag", version, folder=repository)


def work_on_the_branch(clone: Path) -> None:
    """Push something to the branch, as a person does who resolves a conflict."""
    with (clone / HEALTH).open("a") as file:
        file.write("# From a person.\n")
    commit(clone, "Resolve a conflict")
    run("git", "push", "--quiet", "origin", "template-update", folder=clone)


def test_without_a_newer_version_nothing_is_opened(github: Path) -> None:
    clone = check_out(github)
    run_steps(clone)
    assert pull_requests(github) == []
    assert "template-update" not in run("git", "branch", "--all", folder=clone)
    assert run("git", "status", "--porcelain", folder=clone) == ""


def test_a_newer_version_is_a_pull_request_that_names_the_conflicts(github: Path, repository: Path) -> None:
    clone = check_out(github)
    readme = clone / "README.md"
    readme.write_text(readme.read_text() + "\n## Ours\n")
    commit(clone, "Say something")
    release(repository)
    run_steps(clone)
    [opened] = pull_requests(github)
    assert opened["title"] == f"Update the template to {NEXT}"
    assert "README.md: resolve the conflict" in opened["body"]
    assert answers_of(clone)["_commit"] == NEXT
    pushed = run("git", "show", "origin/template-update:README.md", folder=clone)
    assert "<<<<<<< before updating" in pushed


def test_an_update_that_asks_for_trust_fails_and_says_what_to_do(github: Path, repository: Path) -> None:
    with (repository / "copier.yml").open("a") as questions:
        questions.write(HOOK)
    release(repository)
    assert "make update args=--trust" in run_steps(check_out(github), rc=2)
    assert pull_requests(github) == []


def test_the_branch_is_made_anew_unless_somebody_works_on_it(quick: Path, repository: Path) -> None:
    release(repository)
    run_steps(check_out(quick))
    assert "had this version already" in run_steps(check_out(quick))
    assert titles(quick) == [NEXT]

    release_again(repository, "v0.1.2")
    later = check_out(quick)
    run_steps(later)
    assert titles(quick) == ["v0.1.2"], "the one that is open has the newer version now"

    work_on_the_branch(later)
    release_again(repository, "v0.1.3")
    assert "holds somebody's commits" in run_steps(check_out(quick))
    assert "# From a person.\n" in run("git", "show", f"template-update:{HEALTH}", folder=quick / "remote")

    merging = check_out(quick)
    run("git", "merge", "--quiet", "--squash", "origin/template-update", folder=merging)
    commit(merging, "Update the template")
    run("git", "push", "--quiet", "origin", "HEAD", folder=merging)
    end(quick, "MERGED")
    run_steps(check_out(quick))
    assert titles(quick) == ["v0.1.2", "v0.1.3"], "a branch that stays after it was merged is in nobody's way"


def test_one_that_was_turned_down_is_not_opened_again_but_the_next_version_is(quick: Path, repository: Path) -> None:
    release(repository)
    run_steps(check_out(quick))
    end(quick, "CLOSED")
    assert "had this version already" in run_steps(check_out(quick))
    assert titles(quick) == [NEXT]
    release_again(repository, "v0.1.2")
    run_steps(check_out(quick))
    assert titles(quick) == [NEXT, "v0.1.2"]


def test_one_that_was_not_allowed_is_opened_the_next_time(quick: Path, repository: Path) -> None:
    release(repository)
    (quick / "refused").touch()
    assert "::error::Allow GitHub Actions to create pull requests" in run_steps(check_out(quick), rc=1)
    (quick / "refused").unlink()
    run_steps(check_out(quick))
    assert titles(quick) == [NEXT]
