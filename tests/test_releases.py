"""releases.toml, CHANGELOG.md and the tags agree, and the program that tags makes just those that are missing."""

import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from tests.combinations import ROOT
from tests.support import commit, run

TAGGING = Path(".github/scripts/tag_releases.py")
UNRELEASED = " (unreleased)"


def releases() -> list[dict[str, str]]:
    """Return the releases that have been made, oldest first."""
    made: list[dict[str, str]] = tomllib.loads((ROOT / "releases.toml").read_text())["release"]
    return made


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as what it is compared by."""
    return tuple(int(part) for part in version.split("."))


def test_each_release_has_a_version_and_a_whole_commit_and_they_grow() -> None:
    for release in releases():
        assert release.keys() == {"version", "commit"}
        assert re.fullmatch(r"\d+\.\d+\.\d+", release["version"])
        assert re.fullmatch(r"[0-9a-f]{40}", release["commit"])
        run("git", "merge-base", "--is-ancestor", release["commit"], "HEAD", folder=ROOT)
    versions = [numbers(release["version"]) for release in releases()]
    assert all(older < newer for older, newer in pairwise(versions))


def test_the_changelog_has_a_heading_for_each_release_newest_first() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    made = [release["version"] for release in reversed(releases())]
    if headings[0].endswith(UNRELEASED):
        upcoming = headings.pop(0).removesuffix(UNRELEASED)
        assert all(numbers(version) < numbers(upcoming) for version in made)
    assert headings == made


def test_the_tags_are_those_of_the_releases() -> None:
    """A clone may lack tags; but none stands elsewhere, and none is of no release."""
    expected = {f"v{release['version']}": release["commit"] for release in releases()}
    for tag in run("git", "tag", "--list", "v*", folder=ROOT).split():
        assert tag in expected, f"{tag} is of no release"
        assert run("git", "rev-list", "-n", "1", tag, folder=ROOT).strip() == expected[tag]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with two commits, of a repository without tags."""
    run("git", "init", "--quiet", "--bare", "remote", folder=tmp_path)
    folder = tmp_path / "clone"
    (folder / TAGGING.parent).mkdir(parents=True)
    shutil.copy(ROOT / TAGGING, folder / TAGGING)
    for number in range(2):
        (folder / "file").write_text(str(number))
        commit(folder, f"Change {number}")
    run("git", "remote", "add", "origin", str(tmp_path / "remote"), folder=folder)
    return folder


def commits(folder: Path) -> list[str]:
    return run("git", "rev-list", "--reverse", "HEAD", folder=folder).split()


def tag(folder: Path, *made: tuple[str, str]) -> "subprocess.CompletedProcess[str]":
    """Write these releases into releases.toml, and run the program."""
    lines = [f'[[release]]\nversion = "{version}"\ncommit = "{made_of}"\n' for version, made_of in made]
    (folder / "releases.toml").write_text("\n".join(lines) or "release = []\n")
    return subprocess.run([sys.executable, TAGGING, "origin"], cwd=folder, capture_output=True, text=True)


def tags(folder: Path) -> dict[str, str]:
    """Return the tags of the remote repository."""
    lines = run("git", "ls-remote", "--tags", "origin", folder=folder).splitlines()
    return {name.removeprefix("refs/tags/"): commit for commit, name in (line.split("\t") for line in lines)}


def test_what_has_no_tag_is_tagged_once(clone: Path) -> None:
    first, second = commits(clone)
    assert tag(clone).returncode == 0
    assert tags(clone) == {}
    assert tag(clone, ("0.1.0", first)).stdout == f"v0.1.0 is {first}\n"
    assert tags(clone) == {"v0.1.0": first}
    done = tag(clone, ("0.1.0", first), ("0.2.0", second))
    assert (done.returncode, done.stdout) == (0, f"v0.2.0 is {second}\n")
    done = tag(clone, ("0.1.0", first), ("0.2.0", second))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tags(clone) == {"v0.1.0": first, "v0.2.0": second}


def test_an_annotated_tag_counts_by_its_commit(clone: Path) -> None:
    first, _ = commits(clone)
    run("git", "tag", "--annotate", "--message", "The first", "v0.1.0", first, folder=clone)
    run("git", "push", "--quiet", "origin", "v0.1.0", folder=clone)
    done = tag(clone, ("0.1.0", first))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_release_is_never_moved_and_a_commit_has_to_be_there(clone: Path) -> None:
    first, second = commits(clone)
    tag(clone, ("0.1.0", first))
    done = tag(clone, ("0.1.0", second), ("0.2.0", second))
    assert (done.returncode, tags(clone)) == (1, {"v0.1.0": first})
    assert f"v0.1.0 is on {first} already" in done.stderr
    done = tag(clone, ("0.1.0", first), ("0.2.0", "0" * 40))
    assert (done.returncode, tags(clone)) == (1, {"v0.1.0": first})
    assert "there is no commit" in done.stderr


def test_what_is_not_merged_is_not_tagged(clone: Path) -> None:
    run("git", "switch", "--quiet", "--create", "proposal", folder=clone)
    (clone / "file").write_text("proposed")
    commit(clone, "Propose a change")
    proposed = commits(clone)[-1]
    run("git", "switch", "--quiet", "-", folder=clone)
    done = tag(clone, ("0.1.0", proposed))
    assert (done.returncode, tags(clone)) == (1, {})
    assert "is not merged" in done.stderr
