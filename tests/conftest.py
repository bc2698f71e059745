"""Fixtures: a copy of the template, services made from it, a shell to type into, and lines on the terminal."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests import support
from tests.combinations import Answers, label

Progress = Callable[[str], None]
Service = Callable[..., Path]
Check = Callable[..., str]
Typed = Callable[..., str]

URL = "https://your.git.host/copier-fastapi-tasks.git"
"""Where the pages have the template."""
COPIER = f"{shlex.quote(sys.executable)} -c {shlex.quote(support.COPIER)}"
PROGRAMS = {
    "copier": f"""#!/bin/sh
case " $* " in *" --defaults "*) ;; *) set -- "$@" --defaults ;; esac
exec {COPIER} "$@"
""",
    "uv": f"""#!/bin/sh
case "$1 $2" in
"tool run") shift 4; exec {COPIER} "$@" ;;
"run --quiet") shift 5; exec "$REAL_UV" run --quiet --no-project --python ">=3.11" env UV="$0" "$@" ;;
esac
exec "$REAL_UV" "$@"
""",
}
"""Copier as it is installed here, though faster, also for `make update`; what it would ask gets the default answer."""

KEPT = (
    ".git",
    "README",
    "Makefile",
    "pyproject.toml",
    "{{",
    "app/health.py",
    "app/probe.py",
    "scripts/__init__.py",
    "scripts/errors.py",
    "scripts/update.py",
    "scripts/watch.py",
)
"""What of the template a test needs that is about updates, not about what they bring."""

SEVERAL: list[Answers] = [
    {},
    {"database": "sqlite", "scheduler": "external"},
    {"task_queue": "celery", "broker": "rabbitmq"},
    {"task_queue": "celery", "scheduler": "apscheduler"},
    {"include_examples": False, "scheduler": "none"},
]
"""Answers that show every question, setting and command at least once."""


def pytest_configure() -> None:
    """Keep what the developer's shell has set out of every test, and clean up on SIGTERM as on Ctrl-C."""
    support.isolate()
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the cells, which take longest: one process works through them, the others through all else."""
    items.sort(key=lambda item: item.path.name != "test_service.py")


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Progress:
    """Writes a line to the terminal at once, from any process of pytest, although it captures what tests print."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def write(line: str) -> None:
        if capture is not None:
            with capture.global_and_fixture_disabled():
                print(f"\n  {line}", end="", file=sys.stderr, flush=True)

    return write


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it is now, in a repository of its own with one tag. Copy it to change it."""
    folder = tmp_path_factory.mktemp("t").resolve()
    support.copy_template(folder)
    return folder


@pytest.fixture(scope="session")
def smaller_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with what an update needs and a few files to change: updates take half the time. Copy it, too."""
    folder = tmp_path_factory.mktemp("u").resolve()
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    source = folder / "template"
    for path in source.rglob("*"):
        if path.is_file() and not path.relative_to(source).as_posix().startswith(KEPT):
            path.unlink()
    support.commit(folder, "The template as it is, with less in it")
    support.run("git", "tag", support.VERSION, folder=folder)
    return folder


@pytest.fixture(scope="session")
def locked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Renders and locks a service, once for each combination of answers; the options are uv's."""
    folder = tmp_path_factory.mktemp("l").resolve()
    made: dict[tuple[tuple[str, str | bool], ...], Path] = {}

    def make(answers: Answers, *python: str) -> Path:
        key = tuple(sorted(answers.items()))
        if key not in made:
            place = folder / str(len(made))
            support.render(template, place, answers)
            support.run("uv", "lock", "--quiet", *python, folder=place)
            made[key] = place
        return made[key]

    return make


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New places for services, with short paths."""
    folder = tmp_path_factory.mktemp("s").resolve()
    return (folder / str(number) for number in count())


@pytest.fixture(scope="session")
def renderings(template: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Services of several answers, without environments: for what stands in their files."""
    folder = tmp_path_factory.mktemp("d")
    for number, answers in enumerate(SEVERAL):
        support.render(template, folder / str(number), answers)
    return [folder / str(number) for number in range(len(SEVERAL))]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all of pytest's processes have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def service(locked: Callable[..., Path], places: Iterator[Path], shared: Path, progress: Progress) -> Iterator[Service]:
    """Makes a service of this test's own, with an environment: `folder = service(database="sqlite")`.

    It gets exactly the Python of the answer `python_version`; where that is not installed, the test is skipped. What
    Python has compiled of the libraries goes on from one environment to the next.
    """
    made: list[Path] = []

    def make(**answers: str | bool) -> Path:
        start = time.monotonic()
        version = answers.get("python_version")
        found = support.find_python(str(version)) if version else None
        if version and found is None:
            pytest.skip(f"Python {version} is not installed")
        python = ("--python", found) if found else ()
        folder = next(places)
        shutil.copytree(locked(answers, *python), folder)
        support.run("uv", "sync", "--quiet", "--frozen", *python, folder=folder)
        support.bring_compiled(shared / "compiled", folder / ".venv")
        made.append(folder)
        progress(f"{time.monotonic() - start:5.1f} s  service of {label(answers)}")
        return folder

    yield make
    for folder in made:
        support.keep_compiled(folder / ".venv", shared / "compiled")


@pytest.fixture(scope="session")
def check(shared: Path, worker_id: str) -> Check:
    """Runs a service's `make check` and returns what it says: `check(folder, "PYTEST_ADDOPTS=tests/reports")`.

    What mypy finds out about the libraries, most of its work, goes on from one service to the next, of all processes.
    """
    known = shared / "mypy"
    known.mkdir(exist_ok=True)

    def check(folder: Path, *variables: str) -> str:
        cache = folder / ".mypy_cache"
        for version in known.glob("3.*"):
            shutil.copytree(version, cache / version.name, dirs_exist_ok=True)
        said = support.run("env", *variables, "make", "check", folder=folder)
        for version in cache.glob("3.*"):
            if not (known / version.name).exists():
                copied = shutil.copytree(version, known / f"{worker_id}-{version.name}")
                with suppress(OSError):  # another process was quicker
                    copied.rename(known / version.name)
        return said

    return check


@pytest.fixture
def faster_copier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a Copier on the PATH that renders faster, also for `make update`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("REAL_UV", str(shutil.which("uv")))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def typed(template: Path, faster_copier: None, monkeypatch: pytest.MonkeyPatch) -> Typed:  # noqa: ARG001
    """Types text into a shell in a folder, and returns what is said; the first command that fails ends it.

    It has to end with `rc`. The pages' URL leads to the template as it is now.
    """
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", f"url.{template}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", URL)

    def type_(text: str, folder: Path, given: str = "", rc: int = 0) -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", text],
            cwd=folder,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=support.TIMEOUT_SECONDS,
        )
        assert done.returncode == rc, f"{text}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    return type_


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure the one command that repeats it."""
    report = yield
    if report.failed:
        report.sections.append(("to repeat it", f'make test args="{shlex.quote(item.nodeid)}"'))
    return report
