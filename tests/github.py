"""A stand-in for GitHub's program `gh`: run as a program, it keeps pull requests in the file $PULL_REQUESTS.

It answers the calls of the generated workflow as its manual says (https://cli.github.com/manual), and no others.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jq


def main(arguments: list[str]) -> int:
    """Answer one call; return its exit code."""
    if not os.environ.get("GH_TOKEN"):
        print("To use GitHub CLI in a GitHub Actions workflow, set the GH_TOKEN environment variable.", file=sys.stderr)
        return 4
    place = Path(os.environ["PULL_REQUESTS"])
    known: list[dict[str, Any]] = json.loads(place.read_text())
    match arguments:
        case ["auth", "setup-git"]:
            pass
        case ["pr", "list", *options]:
            for line in list_pull_requests(known, options):
                print(line)
        case ["pr", "create", *options]:
            if place.with_name("refused").exists():
                print("GitHub Actions is not permitted to create or approve pull requests", file=sys.stderr)
                return 1
            known.append(create_pull_request(len(known) + 1, options))
        case ["api", "--silent", "--method", "PATCH", path, "--raw-field", title, "--field", body]:
            number = int(path.removeprefix("repos/someone/service/pulls/"))
            content = Path(body.removeprefix("body=@")).read_text()
            known[number - 1] |= {"title": title.removeprefix("title="), "body": content}
        case _:
            print(f"unknown call: {arguments}", file=sys.stderr)
            return 1
    place.write_text(json.dumps(known))
    return 0


def list_pull_requests(known: list[dict[str, Any]], options: list[str]) -> list[str]:
    """Return what `--jq` makes of those of a branch, the newest first."""
    branch, state = option(options, "--head"), option(options, "--state")
    fields = option(options, "--json").split(",")
    found = [each for each in reversed(known) if each["headRefName"] == branch and state in {"all", each["state"]}]
    for each in found:
        if each["state"] == "OPEN":  # the commit of one that has ended stays what it was
            each["headRefOid"] = tip(branch)
    lines: list[str] = jq.compile(option(options, "--jq")).input_value([{f: e[f] for f in fields} for e in found]).all()
    return lines


def create_pull_request(number: int, options: list[str]) -> dict[str, Any]:
    """Return a new one of a branch of this repository."""
    branch = option(options, "--head")
    return {
        "number": number,
        "state": "OPEN",
        "headRefName": branch,
        "headRefOid": tip(branch),
        "isCrossRepository": False,
        "title": option(options, "--title"),
        "body": Path(option(options, "--body-file")).read_text(),
    }


def option(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


def tip(branch: str) -> str:
    """Return the commit that a branch is on, at the remote."""
    command = ["git", "ls-remote", "origin", f"refs/heads/{branch}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("\t")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
