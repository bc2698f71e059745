"""What the tests share: programs, interpreters, a copy of the template as a repository, and rendering it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import copier
import jinja2
from copier._main import Worker

from tests.combinations import ROOT, Answers

VERSION = "v0.1.0"
TIMEOUT_SECONDS = 1500
ISOLATION = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "maintenance.auto",  # it would go on in the background, in folders that are copied or removed
    "GIT_CONFIG_VALUE_0": "false",
    "GIT_AUTHOR_NAME": "A User",
    "GIT_AUTHOR_EMAIL": "user@example.com",
    "GIT_COMMITTER_NAME": "A User",
    "GIT_COMMITTER_EMAIL": "user@example.com",
    "UV_PYTHON_DOWNLOADS": "never",
    "NO_COLOR": "1",
}
FOREIGN = {"DATABASE_URL", "BROKER_URL", "HOST", "PORT", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON"}
FOREIGN |= {"args", "data", "dir"}  # what was given to `make` goes on to every other `make`
FOREIGN |= {"PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"}  # these tests' own processes
FOREIGN |= {"PYTHONDONTWRITEBYTECODE"}  # it makes every start of a process slower

COPIER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from copier.__main__ import CopierApp
from tests.support import render_faster
render_faster()
CopierApp.run()
"""


class Rendering(NamedTuple):
    """A rendered service, what the formatter and the linter say of it, and how long that took."""

    folder: Path
    complaints: str
    seconds: float


def isolate() -> None:
    """Give this process and its children the environment of a user who has set nothing."""
    for name in [name for name in os.environ if name in FOREIGN or name.startswith("MAKE")]:
        del os.environ[name]
    os.environ.update(ISOLATION)
    if shutil.which("uv") is None:
        os.environ["PATH"] = f"{ROOT / '.uv' / 'bin'}{os.pathsep}{os.environ['PATH']}"


def run(*command: str | Path, folder: Path, rc: int | None = 0) -> str:
    """Run it there without a terminal, and return all it says; it has to end with that code, or any if None."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert rc is None or done.returncode == rc, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def run_copier(*arguments: str | Path, folder: Path, rc: int | None = 0) -> str:
    """Run Copier as a user does, though faster, and return all it says."""
    return run(sys.executable, "-c", COPIER, *arguments, folder=folder, rc=rc)


def commit(folder: Path, message: str) -> None:
    """Commit everything there, in a repository that is made if there is none."""
    run("git", "init", "--quiet", folder=folder)
    run("git", "add", "--all", folder=folder)
    run("git", "commit", "--quiet", "--message", message, folder=folder)


def keep_compiled(environment: Path, known: Path) -> None:
    """Keep what Python has compiled of an environment's libraries."""
    libraries = environment / "lib"
    for path in libraries.rglob("__pycache__/*.pyc"):
        place = known / path.relative_to(libraries)
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            place.hardlink_to(path)


def bring_compiled(known: Path, environment: Path) -> None:
    """Give a new environment what is known of its libraries. Python looks whether it fits, and never writes into it."""
    for path in known.rglob("__pycache__/*.pyc"):
        place = environment / "lib" / path.relative_to(known)
        if place.parent.parent.is_dir():
            place.parent.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                place.hardlink_to(path)


def copy_template(folder: Path) -> None:
    """Make a tagged repository of the template as it is now, committed or not."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    commit(folder, "The template as it is")
    run("git", "tag", VERSION, folder=folder)


def render(template: Path, folder: Path, answers: Answers) -> None:
    """Render a service of these answers, and the defaults of the others."""
    copier.run_copy(str(template), folder, data=answers, vcs_ref="HEAD", defaults=True, quiet=True)


def render_faster() -> None:
    """Let this process render in a third of the time: what is the same for several renderings is done once.

    Copier compiles every template anew for each rendering, of which an update has three, and asks git about each file
    that it writes, in case that is in a repository with `core.fileMode=false`, which none of these is.
    """
    known: dict[Any, Any] = {}
    environment: Any = jinja2.Environment
    compile_anew = environment.compile

    def compile_once(self: Any, *source: Any, **options: Any) -> Any:
        key = (source, tuple(options.items()))
        if key not in known:
            known[key] = compile_anew(self, *source, **options)
        return known[key]

    environment.compile = compile_once
    copying: Any = Worker
    copying._sync_git_index_executable_bit = lambda *_: None


def render_and_lint(template: Path, folder: Path, answers: Answers) -> Rendering:
    """Render it and let ruff look at it with the service's own settings; runs in a process of a pool."""
    start = time.monotonic()
    render(template, folder, answers)
    ruff = [sys.executable, "-m", "ruff"]
    commands = [[*ruff, "format", "--no-cache", "--diff", "."], [*ruff, "check", "--no-cache", "."]]
    done = [subprocess.run(command, cwd=folder, capture_output=True, text=True) for command in commands]
    complaints = "".join(result.stdout + result.stderr for result in done if result.returncode != 0)
    return Rendering(folder, complaints, time.monotonic() - start)


@cache
def find_python(version: str) -> str | None:
    """Return the installed interpreter of that version, as uv or pyenv has it."""
    command = ["uv", "python", "find", "--no-project", "--offline", version]
    found = subprocess.run(command, cwd=ROOT.anchor, capture_output=True, text=True)
    if found.returncode == 0:
        return found.stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next((str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))), None)


def free_port() -> int:
    """Return a port that nothing listens on, and that the system gives nobody by itself."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
