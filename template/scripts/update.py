"""`make update`: take over a newer version of the template, and say before and afterwards what needs a person."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.errors import DevelopmentError

ANSWERS = ".copier-answers.yml"
UV = os.environ.get("UV") or "uv"
COPIER = (UV, "tool", "run", "--quiet", "copier>=9.18")
NOT_TRUSTED = 4
PRETEND = {"--pretend", "-n"}
TRUST = {"--trust", "--UNSAFE"}


def update(arguments: list[str]) -> list[str]:
    """Update the working tree, passing the arguments on to Copier; return what is left to do.

    With `--pretend` nothing is changed. Raises DevelopmentError if the update cannot begin, or fails.
    """
    if any(argument.startswith(("--conflict", "-o")) for argument in arguments):
        raise DevelopmentError("leave --conflict away: conflicts are marked in the files, where git sees them")
    if uncommitted := _git("status", "--porcelain", "--", "."):
        advice = "commit or stash your changes first, so that git can undo the update:"
        raise DevelopmentError("\n".join([advice, *uncommitted]))
    pretended = [argument for argument in arguments if argument not in PRETEND]
    with tempfile.TemporaryDirectory() as folder:
        lost = _rehearse(Path(folder), pretended)
    if pretended != arguments:
        return lost
    for line in lost:
        print(f"  {line}", flush=True)
    _run(*COPIER, "update", "--defaults", *arguments)
    conflicts = _conflicts(Path())
    if "pyproject.toml: resolve the conflict" in conflicts:
        conflicts.append("uv.lock: lock again with `make setup` when pyproject.toml is resolved")
    else:
        _run(UV, "lock", "--quiet")
    return conflicts + [line for line in lost if line not in conflicts]


def is_newest() -> bool:
    """Tell whether there is no release of the template newer than what this service comes from, and say so."""
    _answers()  # Copier would not say what is missing
    said = subprocess.run([*COPIER, "check-update", "--output-format=json"], stdout=subprocess.PIPE, text=True)
    if said.returncode != 0:
        raise DevelopmentError("Copier could not find out whether the template has a newer version")
    found = json.loads(said.stdout)
    if not found["update_available"]:
        print(
            f"There is nothing newer: this service comes from {found['current_version']}, "
            f"and the newest release of the template is {found['latest_version']}."
        )
    return not found["update_available"]


def _rehearse(folder: Path, arguments: list[str]) -> list[str]:
    """Update a clone; return its conflicts, and the edited files that would be deleted or renamed."""
    clone = folder / "clone"
    [top] = _git("rev-parse", "--show-toplevel")
    place = clone / Path.cwd().relative_to(Path(top).resolve())
    _git("clone", "--quiet", "--shared", top, str(clone))
    _name_source_absolutely(place)
    done = subprocess.run([*COPIER, "update", "--quiet", "--defaults", *arguments], cwd=place)
    if done.returncode == NOT_TRUSTED:
        trusting = shlex.join([*arguments, "--trust"])
        raise DevelopmentError(
            "this update runs programs of the template, which it does only if you trust them.\n"
            f"The template's folder hooks/ has them. To go on: make update args={shlex.quote(trusting)}"
        )
    if done.returncode != 0:
        raise DevelopmentError("Copier could not update a copy of this service; nothing here has changed")
    found = _conflicts(place)
    _git("add", "--all", folder=place)
    changes = _git("diff", "--cached", "--relative", "-M", "--diff-filter=DR", "--name-status", "HEAD", folder=place)
    before = folder / "before"
    if changes:
        _render_as_it_was(before)
    for line in changes:
        _, path, *names = line.split("\t")
        if _committed(path) != _content(before / path):
            where = f"(git show HEAD:./{path})"
            found.append(
                f"{path}: renamed to {names[0]}; see that your edits are there {where}"
                if names
                else f"{path}: deleted, and it held edits {where}"
            )
    return found


def _name_source_absolutely(place: Path) -> None:
    """Commit the whole path of the template in a clone, where a relative one leads elsewhere."""
    answers = _answers()
    source = _answer(answers, "_src_path")
    if not Path(source).is_absolute() and Path(source).exists():
        found = f"_src_path: {Path(source).resolve()}"
        changed = re.sub(r"^_src_path: .*$", lambda _: found, answers, flags=re.MULTILINE)
        (place / ANSWERS).write_text(changed, encoding="utf-8")
        author = ("-c", "user.name=make update", "-c", "user.email=update@localhost", "-c", "commit.gpgSign=false")
        _git(*author, "commit", "--quiet", "--no-verify", "--message", found, ANSWERS, folder=place)


def _answers() -> str:
    """Return what this service was generated from."""
    try:
        return Path(ANSWERS).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DevelopmentError(
            f"{ANSWERS} is missing, which says where this service comes from. Restore it from git; if it is lost,\n"
            "the template's docs/how-to/adopt-an-existing-project.md says how to write it again"
        ) from None


def _answer(answers: str, name: str) -> str:
    """Return an answer, which may stand in quotation marks."""
    found = re.search(rf"^{name}: (.*)$", answers, re.MULTILINE)
    if found is None:
        raise DevelopmentError(f"{ANSWERS} has no {name}")
    return found[1].strip("'\"")


def _conflicts(folder: Path) -> list[str]:
    unmerged = sorted({line.partition("\t")[2] for line in _git("ls-files", "--unmerged", folder=folder)})
    return [f"{path}: resolve the conflict" for path in unmerged]


def _render_as_it_was(folder: Path) -> None:
    """Render the version this service comes from, to tell what the user has edited since."""
    answers = _answers()
    version, source = _answer(answers, "_commit"), _answer(answers, "_src_path")
    _run(*COPIER, "copy", "--quiet", "--defaults", "--vcs-ref", version, "--data-file", ANSWERS, source, str(folder))


def _committed(path: str) -> bytes:
    return subprocess.run(["git", "show", f"HEAD:./{path}"], check=True, capture_output=True).stdout


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _git(*arguments: str, folder: Path | None = None) -> list[str]:
    command = ["git", "-c", "core.quotePath=off", *arguments]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise DevelopmentError("git is not installed, which merges the update with your changes") from None
    if result.returncode != 0:
        raise DevelopmentError(f"`git {' '.join(arguments)}` failed: {result.stderr.strip()}")
    return result.stdout.splitlines()


def _run(*command: str) -> None:
    if subprocess.run(command).returncode != 0:
        raise DevelopmentError(f"`{' '.join(command)}` failed")


def main() -> int:
    """Update, and print what to do next; return 1 if files need a person."""
    arguments = sys.argv[1:]
    try:
        if not set(arguments) - PRETEND - TRUST and is_newest():
            return 0
        todo = update(arguments)
    except DevelopmentError as problem:
        print(f"make update: {problem}", file=sys.stderr)
        return 1
    for line in todo:
        print(f"  {line}")
    if PRETEND & set(arguments):
        print("Nothing has changed.")
    else:
        print("Next: read `git diff`, then `make setup`, `make check` and commit.")
    return 1 if todo else 0


if __name__ == "__main__":
    sys.exit(main())
