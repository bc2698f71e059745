"""Give every release in releases.toml its tag, on that commit: `python .github/scripts/tag_releases.py origin`.

Only tags that are missing are made and pushed, so it may run again at any time. One that is there but on another
commit, or a release whose commit is not merged, is an error: what services were made from must never change.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path.cwd()


def main(remote: str) -> int:
    """Tag what has no tag, push these tags to the remote, and return 1 if a release cannot be tagged."""
    releases = tomllib.loads((ROOT / "releases.toml").read_text(encoding="utf-8"))["release"]
    there = tags(remote)
    missing: list[tuple[str, str]] = []
    for release in releases:
        tag, commit = f"v{release['version']}", release["commit"]
        if git("cat-file", "-t", commit, check=False) != "commit":
            print(f"{tag}: there is no commit {commit} in this clone (a shallow one has few)", file=sys.stderr)
            return 1
        if not is_merged(commit):
            print(f"{tag}: the commit {commit} is not merged into what is checked out here", file=sys.stderr)
            return 1
        if there.get(tag, commit) != commit:
            print(f"{tag} is on {there[tag]} already, and releases.toml says {commit}", file=sys.stderr)
            return 1
        if tag not in there:
            missing.append((tag, commit))
    for tag, commit in missing:
        git("tag", "--force", tag, commit)
        git("push", "--quiet", remote, f"refs/tags/{tag}")
        print(f"{tag} is {commit}")
    return 0


def tags(remote: str) -> dict[str, str]:
    """Return the remote's tags and their commits."""
    lines = [line.split("\t") for line in git("ls-remote", "--tags", remote).splitlines()]
    found = {name.removeprefix("refs/tags/"): commit for commit, name in lines}
    # An annotated tag is listed twice: its commit stands in the second line.
    return {name: found.get(f"{name}^{{}}", commit) for name, commit in found.items() if not name.endswith("^{}")}


def is_merged(commit: str) -> bool:
    """Tell whether a commit is part of what is checked out."""
    command = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def git(*arguments: str, check: bool = True) -> str:
    """Run git, and return what it says."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
