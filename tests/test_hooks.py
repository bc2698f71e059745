"""Hooks do what Copier cannot, trust is asked for where they run, and `make update` says ahead what would be lost."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.combinations import ROOT
from tests.documents import blocks, pages, shell
from tests.support import VERSION, commit, render, run, run_copier
from tests.test_copy_update import answers_of, assert_no_conflict, change

pytestmark = pytest.mark.usefixtures("faster_copier")

NEXT = "v0.2.0"
[EXAMPLE] = [block.text for block in blocks(pages()["hooks/README.md"]) if block.language == "yaml"]
RENAME = "\n" + EXAMPLE.replace("app/old.py", "app/probe.py").replace("app/new.py", "app/liveness.py")
"""What hooks/README.md says to add to copier.yml."""
[TRUST] = [text for text in shell(pages()["docs/how-to/update.md"]) if "--trust" in text]


@pytest.fixture
def repository(smaller_template: Path, tmp_path: Path) -> Path:
    """A template of this test's own, with the current tree as its one release."""
    return Path(shutil.copytree(smaller_template, tmp_path / "template"))


@pytest.fixture
def renaming(repository: Path, tmp_path: Path) -> Path:
    """A service of the release before one that renames a file, with a hook."""
    render(repository, tmp_path / "service", {"database": "sqlite"})
    service = tmp_path / "service"
    run("uv", "lock", "--quiet", folder=service)
    commit(service, "Start from the template")
    source = repository / "template" / "app"
    (source / "probe.py").rename(source / "liveness.py")
    with (source / "liveness.py").open("a") as file:
        file.write("# From the new release.\n")
    with (repository / "copier.yml").open("a") as questions:
        questions.write(RENAME)
    commit(repository, "Rename the probe")
    run("git", "tag", NEXT, folder=repository)
    return service


def test_a_hook_carries_edits_over_to_a_files_new_name(renaming: Path) -> None:
    probe, liveness = renaming / "app" / "probe.py", renaming / "app" / "liveness.py"
    first = probe.read_text().splitlines(keepends=True)[0]
    probe.write_text(f"{first}# From the user.\n{probe.read_text().removeprefix(first)}")
    commit(renaming, "Say who asks")

    assert "--trust" in run_copier("update", "--defaults", folder=renaming, rc=4)
    said = run("make", "update", f"args=--vcs-ref={NEXT}", folder=renaming, rc=2)
    assert f"make update args='--vcs-ref={NEXT} --trust'" in said
    assert "hooks/" in said
    assert "app/probe.py: renamed to app/liveness.py" in run(
        "make", "update", "args=--trust --pretend", folder=renaming, rc=2
    )
    assert run("git", "status", "--porcelain", folder=renaming) == "", "nothing has changed"

    said = run("make", "update", "args=--trust", folder=renaming, rc=2)
    line = "app/probe.py: renamed to app/liveness.py"
    assert said.index(line) < said.index("Updating to template version"), "it is said before it is done"
    assert said.count(line) == 2
    assert_no_conflict(renaming)
    assert not probe.exists()
    text = liveness.read_text()
    assert text.startswith(f"{first}# From the user.\n")
    assert text.endswith("# From the new release.\n")


@pytest.mark.parametrize("source", ["../template", "git+file://{}"])
def test_the_template_may_be_beside_the_service_or_behind_a_url(renaming: Path, repository: Path, source: str) -> None:
    named = source.format(repository)
    change(renaming / ".copier-answers.yml", f"_src_path: {repository}\n", f"_src_path: {named}\n")
    probe, liveness = renaming / "app" / "probe.py", renaming / "app" / "liveness.py"
    probe.write_text(f"# From the user.\n{probe.read_text()}")
    commit(renaming, "Say who asks")
    said = run("make", "update", "args=--trust", folder=renaming, rc=2)
    assert "app/probe.py: renamed to app/liveness.py" in said
    assert liveness.read_text().startswith("# From the user.\n")
    assert answers_of(renaming)["_commit"] == NEXT
    assert answers_of(renaming)["_src_path"] == named
    assert run("git", "log", "--format=%s", "-n", "1", folder=renaming) == "Say who asks\n", "nothing is committed here"


def test_a_hook_marks_what_it_cannot_merge(renaming: Path) -> None:
    with (renaming / "app" / "probe.py").open("a") as probe:
        probe.write("# From the user.\n")
    commit(renaming, "Say who asks")
    said = run("make", "update", "args=--trust", folder=renaming, rc=2)
    assert "app/liveness.py: resolve the conflict" in said
    assert "UU app/liveness.py" in run("git", "status", "--porcelain", folder=renaming)
    text = (renaming / "app" / "liveness.py").read_text()
    assert text.endswith(
        "<<<<<<< before updating\n# From the user.\n=======\n# From the new release.\n>>>>>>> after updating\n"
    )


def test_a_hook_leaves_alone_what_is_no_text_or_was_never_the_templates(renaming: Path) -> None:
    app = renaming / "app"
    (app / "own.py").write_text("# From the user.\n")
    (app / "probe.py").write_bytes(b"\0 From the user.")
    commit(renaming, "Replace the probe")
    rename = ROOT / "hooks" / "rename.py"
    run("env", f"VERSION_FROM={VERSION}", sys.executable, rename, "app/own.py", "app/health.py", folder=renaming)
    assert run("git", "status", "--porcelain", folder=renaming) == ""

    run_copier("update", "--defaults", "--trust", folder=renaming)
    assert (app / "liveness.py").read_text().endswith("# From the new release.\n")
    assert run("git", "show", ":2:app/liveness.py", folder=renaming) == "\0 From the user."


def test_only_updates_that_cross_a_hook_ask_for_trust(renaming: Path, repository: Path, tmp_path: Path) -> None:
    said = run("sh", "-ec", TRUST, folder=renaming)
    assert "renamed to" not in said, "nobody has edited it"
    assert answers_of(renaming)["_commit"] == NEXT
    assert not (renaming / "app" / "probe.py").exists()
    commit(renaming, "Take the release over")

    change(repository / "template" / "app" / "liveness.py", "# From the new release.\n", "# From the newest.\n")
    commit(repository, "Say it differently")
    run("git", "tag", "v0.2.1", folder=repository)
    run_copier("update", "--defaults", folder=renaming)
    assert answers_of(renaming)["_commit"] == "v0.2.1"
    assert (renaming / "app" / "liveness.py").read_text().endswith("# From the newest.\n")
    run_copier("copy", "--defaults", repository, "another", folder=tmp_path)
    assert answers_of(tmp_path / "another")["_commit"] == "v0.2.1"


def test_where_nothing_is_newer_nothing_is_done(repository: Path, tmp_path: Path) -> None:
    with (repository / "template" / "app" / "probe.py").open("a") as probe:
        probe.write("# Not released yet.\n")
    commit(repository, "Say more")
    service = tmp_path / "service"
    render(repository, service, {"database": "sqlite"})
    commit(service, "Start from the template")
    said = run("make", "update", folder=service)
    assert re.search(rf"nothing newer: this service comes from 0\.1\.0\.post1\S*, and .* {VERSION[1:]}\.", said)
    for option in ("--conflict=rej", "-orej"):
        assert "leave --conflict away" in run("make", "update", f"args={option}", folder=service, rc=2)
    assert run("git", "status", "--porcelain", folder=service) == ""

    (service / ".copier-answers.yml").unlink()
    assert ".copier-answers.yml is missing" in run("make", "update", folder=service, rc=2)


def test_a_dropped_file_with_edits_is_named_before_it_goes(repository: Path, tmp_path: Path) -> None:
    service = tmp_path / "service"
    render(repository, service, {"database": "sqlite"})
    run("uv", "lock", "--quiet", folder=service)
    with (service / "app" / "probe.py").open("a") as probe:
        probe.write("# From the user.\n")
    commit(service, "Start from the template")
    (repository / "template" / "app" / "probe.py").unlink()
    (repository / "template" / "scripts" / "watch.py").unlink()
    commit(repository, "Drop two files")
    run("git", "tag", NEXT, folder=repository)

    line = "app/probe.py: deleted, and it held edits (git show HEAD:./app/probe.py)"
    said = run("make", "update", "args=--pretend", folder=service, rc=2)
    assert line in said
    assert "watch.py" not in said, "it held none"
    assert "Nothing has changed." in said
    assert (service / "app" / "probe.py").is_file()
    said = run("make", "update", folder=service, rc=2)
    assert said.index(line) < said.index("Updating to template version")
    assert not (service / "app" / "probe.py").exists()
