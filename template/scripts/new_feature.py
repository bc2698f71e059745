"""`make new-feature name=invoices`: a folder with a router and a task, and its test, to be filled with work."""

import keyword
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from scripts.environment import ROOT
from scripts.errors import DevelopmentError

LONGEST_NAME = 40

PACKAGE = '''\
"""The feature $name; its files are found by their names."""
'''

SCHEMAS = '''\
"""What $path takes, and what its task gives back."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ${title}Request(BaseModel):
    """What is to be done."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "three short words"}]})

    text: Annotated[str, Field(min_length=1, max_length=1000)]


class ${title}Result(BaseModel):
    """What came of it."""

    words: int
'''

TASKS = '''\
"""The work that $path has done in the background."""

from app.$name.schemas import ${title}Request, ${title}Result
from app.tasks import TaskContext, task


@task(max_attempts=3, timeout=60)
async def process_$name(context: TaskContext, request: ${title}Request) -> ${title}Result:
    """Count the words; put your own work here."""
    await context.progress(0.5, "counting")
    return ${title}Result(words=len(request.text.split()))
'''

ROUTER = '''\
"""$path: answers at once; a task does the work."""

from fastapi import APIRouter, status

from app.$name.schemas import ${title}Request
from app.$name.tasks import process_$name
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="$path", tags=["$tag"])


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def submit_$name(request: ${title}Request, tasks: Tasks) -> TaskAccepted:
    """Have it done. Poll the task at Location."""
    return await tasks.submit(process_$name, request)
'''

TEST = '''\
"""$path: what is accepted is done in the background."""

from httpx import AsyncClient

from tests.support.inline import TaskRunner


async def test_a_request_is_accepted_and_then_done(client: AsyncClient, run_tasks: TaskRunner) -> None:
    accepted = await client.post("$path", json={"text": "three short words"})
    assert accepted.status_code == 202
    assert accepted.json()["status"] == "pending"
    await run_tasks()
    task = (await client.get(accepted.headers["Location"])).json()
    assert task["status"] == "completed"
    assert task["result"] == {"words": 3}


async def test_a_wrong_request_is_refused(client: AsyncClient) -> None:
    refused = await client.post("$path", json={"text": ""})
    assert refused.status_code == 422
'''


def write_feature(name: str) -> list[Path]:
    """Write the files of a feature; return their paths.

    Raises DevelopmentError if the name will not do.
    """
    check_name(name)
    tag = name.replace("_", "-")
    words = {"name": name, "title": name.title().replace("_", ""), "tag": tag, "path": f"/{tag}"}
    folder = ROOT / "app" / name
    files = {
        folder / "__init__.py": PACKAGE,
        folder / "schemas.py": SCHEMAS,
        folder / "tasks.py": TASKS,
        folder / "router.py": ROUTER,
        ROOT / "tests" / f"test_{name}.py": TEST,
    }
    folder.mkdir()
    for path, text in files.items():
        path.write_text(Template(text).substitute(words))
    # The order of imports and the breaks of long lines depend on the name.
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--select", "I", "--fix", *files], check=True)
    subprocess.run([*ruff, "format", "--quiet", *files], check=True)
    return list(files)


def check_name(name: str) -> None:
    """Raise DevelopmentError if a feature cannot have this name."""
    if not name:
        raise DevelopmentError("a name is needed: make new-feature name=invoices")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        rule = f"use lower-case letters, digits and single underscores, at most {LONGEST_NAME} characters"
        raise DevelopmentError(f"{name!r} will not do: {rule}, like order_lines")
    if keyword.iskeyword(name):
        raise DevelopmentError(f"{name!r} is a word of Python itself: choose another")
    for taken in (ROOT / "app" / name, ROOT / "app" / f"{name}.py", ROOT / "tests" / f"test_{name}.py"):
        if taken.exists():
            raise DevelopmentError(f"{taken.relative_to(ROOT)} is there already: choose another name")


def main() -> int:
    """Write a feature, and tell what to do with it."""
    try:
        files = write_feature(" ".join(sys.argv[1:]))
    except DevelopmentError as problem:
        print(f"make new-feature: {problem}", file=sys.stderr)
        return 1
    for path in files:
        print(f"  {path.relative_to(ROOT)}")
    print("Nothing else needs to change: `make test` runs the new test, `make dev` serves the new route.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
