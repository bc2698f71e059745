"""Carry a user's edits over to a file's new name, when an update renames it: `rename.py OLD NEW`.

Copier knows no renaming: it writes the new file and deletes the old one, with whatever the user has changed in it. This
runs after that, in the updated service, and merges three versions: the old release's file, the user's, the new one.
A conflict is marked in the file and in the index, as Copier marks its own; a file that is no text stays as the new
release has it, with the user's one in the index.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ANSWERS = ".copier-answers.yml"
NO_TEXT = 128
"""From here on the exit code of `git merge-file` is not a number of conflicts."""


def main(old: str, new: str) -> int:
    """Merge; there is nothing to do where the user has no such file, has not edited it, or has one of their own."""
    edited = git("show", f"HEAD:./{old}")
    if edited is None or not Path(new).is_file():
        return 0
    with tempfile.TemporaryDirectory() as folder:
        base = original(Path(folder), old)
        if base is None or base == edited:
            return 0
        versions = {"before updating": edited, "last update": base, "after updating": Path(new).read_bytes()}
        labels: list[str] = []
        files: list[Path] = []
        for number, (name, content) in enumerate(versions.items()):
            files.append(Path(folder) / str(number))
            files[-1].write_bytes(content)
            labels += ["-L", name]
        merged = subprocess.run(["git", "merge-file", "-p", *labels, *files], capture_output=True)
        if merged.returncode < NO_TEXT:
            Path(new).write_bytes(merged.stdout)
        if merged.returncode != 0:
            mark_as_unmerged(new, *files)
    Path(old).unlink(missing_ok=True)
    print(f"{old} is {new} now, with your edits{' and a conflict' if merged.returncode else ''}", file=sys.stderr)
    return 0


def original(folder: Path, old: str) -> bytes | None:
    """Render the release that the service comes from, and return the file as it was, or None if it had none."""
    answers = folder / "answers.yml"
    answers.write_bytes(git("show", f"HEAD:./{ANSWERS}") or b"")
    recorded = dict(line.split(": ", 1) for line in answers.read_text(encoding="utf-8").splitlines() if ": " in line)
    source = recorded["_src_path"].strip("'\"")
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", "--vcs-ref", os.environ["VERSION_FROM"]]
    subprocess.run([*command, "--data-file", answers, source, folder / "before"], check=True)
    rendered = folder / "before" / old
    return rendered.read_bytes() if rendered.is_file() else None


def mark_as_unmerged(path: str, mine: Path, base: Path, theirs: Path) -> None:
    """Put the three versions into the index, as git does in a merge; `git status` then shows the conflict."""
    prefix = (git("rev-parse", "--show-prefix") or b"").decode().strip()
    lines = [f"0 {'0' * 40}\t{prefix}{path}"]
    for stage, version in ((1, base), (2, mine), (3, theirs)):
        blob = (git("hash-object", "-w", str(version)) or b"").decode().strip()
        lines.append(f"100644 {blob} {stage}\t{prefix}{path}")
    subprocess.run(["git", "update-index", "--index-info"], input="\n".join(lines) + "\n", text=True, check=True)


def git(*arguments: str) -> bytes | None:
    """Run git; return what it says, or None if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True)
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
