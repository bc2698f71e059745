"""The first command of the README: from a bare machine to a running service."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.combinations import ROOT
from tests.support import free_port, render, run
from tests.test_dev import DEADLINE_SECONDS, READY, processes_in, wait_until


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the system's programs, git and make among them, and Python with pip; but without uv."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    found = {path.name: path for folder in ("/bin", "/usr/bin") for path in Path(folder).iterdir()}
    for tool in ("git", "make"):
        found[tool] = Path(shutil.which(tool) or tool)
    for name, path in found.items():
        if not name.startswith(("python", "pip", "uv")):
            (programs / name).symlink_to(path)
    monkeypatch.setenv("PATH", str(programs))


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """A fresh clone of the template, without tags."""
    run("git", "clone", "--quiet", "--no-tags", template, "template", folder=tmp_path)
    return tmp_path / "template"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where the service goes; what still runs there afterwards is ended."""
    yield tmp_path / "my-service"
    for process in processes_in(tmp_path / "my-service"):
        os.kill(process, signal.SIGKILL)


@pytest.mark.usefixtures("bare")
def test_a_bare_machine_gets_a_running_service(repository: Path, place: Path) -> None:
    port = free_port()
    log = place.with_suffix(".log")
    with log.open("wb") as output:
        demo = subprocess.Popen(
            ["make", "demo", "data=-d database=sqlite", f"PORT={port}"],
            cwd=repository,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: READY in log.read_text() or demo.poll() is not None)
    assert demo.poll() is None, log.read_text()
    assert "Fetching uv" in log.read_text()
    assert "database: sqlite" in (place / ".copier-answers.yml").read_text()
    ready = f"http://127.0.0.1:{port}/health/ready"
    wait_until(lambda: httpx.get(ready, timeout=DEADLINE_SECONDS).json()["status"] == "ok")
    demo.terminate()
    demo.wait(DEADLINE_SECONDS)
    wait_until(lambda: not processes_in(place))
    assert run("git", "status", "--porcelain", folder=repository) == "", "the demo leaves traces in the template"


@pytest.mark.usefixtures("bare")
def test_a_service_alone_fetches_what_it_needs(template: Path, place: Path) -> None:
    render(template, place, {"database": "sqlite"})
    assert "Fetching uv" in run("make", "setup", folder=place)
    assert (place / "uv.lock").is_file()
    run("make", "format", folder=place)  # which leaves the uv there alone, in a repository or not


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    said = run("make", "demo", f"dir={tmp_path / 'notes'}", folder=ROOT, rc=2)
    assert "name a new directory" in said
    assert not list((tmp_path / "notes").iterdir())


def test_the_commands_are_listed(template: Path) -> None:
    said = run("make", folder=template)
    for command in ("demo", "test", "check", "format"):
        assert f"make {command} " in said
