"""The pages for people are true: their links lead somewhere, their code passes, and their calls are answered."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from tests.combinations import ROOT, Answers, label
from tests.conftest import SEVERAL
from tests.documents import URL, Block, blocks, broken_links, commands, lines, pages, tables, words
from tests.reader import Reader
from tests.support import commit, run
from tests.test_dev import DEADLINE_SECONDS, READY, MakeDev, make_dev, wait_until

PAGES = pages()
READMES = {f"README of {label(answers)}": number for number, answers in enumerate(SEVERAL)}
"""Generated ones, and which of `renderings` they belong to."""
ANSWERS: Answers = {"database": "sqlite", "scheduler": "external"}
GENERATED = f"README of {label(ANSWERS)}"
RUN_ANYWHERE = {"cd", "copier", "curl"}
"""Programs that are run from every page that has them, here or by tests/test_commands.py."""
NIGHT = "docs/how-to/debug-a-stuck-task.md"
"""Typed as a whole, with each database, by tests/test_debugging.py."""
TYPED = {".venv/bin/alembic", "cp", "echo", "export", "git", "grep", "python3", "rm"}
TYPED_PAGES = {
    NIGHT,
    "docs/tutorial.md",
    "docs/how-to/adopt-an-existing-project.md",
    "docs/how-to/switch-the-queue.md",
    "docs/how-to/update.md",
    "docs/how-to/upgrade-postgresql.md",
    *READMES,
}
"""Programs, and the pages from which they are typed into a shell: by tests/test_commands.py, test_debugging.py,
test_examples.py, test_switch.py and test_upgrade.py."""
ELSEWHERE = {
    "aws": "needs an account",
    "docker": "needs its daemon; tests/test_container.py and test_upgrade.py run what it would run in containers",
    "kubectl": "needs a cluster",
    "pipx": "installs for the user of this machine",
}
"""Programs that no test runs from a page, and why."""
RUN = ("make migration", "make new-feature", "make test args=")


@pytest.fixture(scope="module")
def service(locked: Callable[..., Path], places: Iterator[Path]) -> Path:
    """One service for all pages, with an environment, committed."""
    folder = next(places)
    shutil.copytree(locked(ANSWERS), folder)
    run("uv", "sync", "--quiet", "--frozen", folder=folder)
    commit(folder, "Start from the template")
    return folder


@pytest.fixture
def place(service: Path) -> Iterator[Path]:
    """The service, from which what a page has brought is taken away again."""
    yield service
    run("git", "clean", "--quiet", "--force", "-d", "app", "tests", folder=service)


@pytest.fixture
def page(request: pytest.FixtureRequest, renderings: list[Path]) -> list[Block]:
    """The blocks of a page, by its path."""
    if request.param in PAGES:
        return blocks(PAGES[request.param])
    return blocks((renderings[READMES[request.param]] / "README.md").read_text())


def writes_files(path: str) -> bool:
    return any(block.path for block in blocks(PAGES[path]))


def calls(path: str) -> bool:
    return path != NIGHT and any("curl " in block.text for block in blocks(PAGES[path]) if block.language == "sh")


def test_every_link_leads_somewhere_and_the_index_names_every_page(renderings: list[Path]) -> None:
    for path in [*(ROOT / path for path in PAGES), *(folder / "README.md" for folder in renderings)]:
        assert broken_links(path) == [], path
    named = set(re.findall(r"\]\(([\w/-]+\.md)\)", PAGES["docs/README.md"]))
    assert {f"docs/{name}" for name in named} | {"docs/README.md"} == {path for path in PAGES if path[:5] == "docs/"}


@pytest.mark.parametrize("page", [*PAGES, *READMES], indirect=True)
def test_code_can_be_read(page: list[Block]) -> None:
    for block in page:
        match block.language:
            case "python":
                compile(block.text, "block", "exec", dont_inherit=True)
            case "yaml":
                yaml.safe_load(block.text)
            case "json":
                json.loads(block.text)
            case "sql" | "":
                pass
            case language:
                assert language == "sh", f"there is a block of {language!r}, which no test reads"


@pytest.mark.parametrize("path", [*PAGES, *READMES])
def test_commands_are_there(path: str, renderings: list[Path]) -> None:
    """A generated README's targets of make have to be in the Makefile beside it."""
    folders = [renderings[READMES[path]]] if path in READMES else [ROOT, *renderings]
    makefiles = [(folder / "Makefile").read_text() for folder in folders]
    text = PAGES[path] if path in PAGES else (folders[0] / "README.md").read_text()
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    for block in blocks(text):
        for program, *arguments in commands(block) if block.language == "sh" else ():
            if program == "make":
                targets.add(arguments[0])
            elif program in TYPED:
                assert path in TYPED_PAGES, f"no test types the {program} of this page into a shell"
            else:
                assert program in RUN_ANYWHERE | ELSEWHERE.keys(), f"{program} is a command that no test knows"
    for target in targets:
        assert any(f"\n{target}: " in makefile for makefile in makefiles), f"there is no `make {target}`"


def test_every_exemption_is_needed(renderings: list[Path]) -> None:
    texts = [*PAGES.values(), *((folder / "README.md").read_text() for folder in renderings)]
    typed = [block for text in texts for block in blocks(text) if block.language == "sh"]
    assert ELSEWHERE.keys() <= {program for block in typed for program, *_ in commands(block)}


@pytest.mark.parametrize(
    "page", [*(path for path in PAGES if writes_files(path) and not calls(path)), GENERATED], indirect=True
)
def test_features_pass_their_checks_and_tests(page: list[Block], place: Path) -> None:
    written = [write(place, block) for block in page if block.path]
    check(place, written)
    for block in page:
        for command in commands(block) if block.language == "sh" else ():
            if " ".join(command).startswith(RUN):
                run(*command, folder=place)
    tests = [path for path in written if path.startswith("tests/")]
    if tests:
        assert " passed" in run(python(place), "-m", "pytest", "-n", "0", *tests, folder=place)
    else:
        run(python(place), "-m", "scripts.schedules", "crontab", folder=place)


@pytest.fixture(scope="module")
def dev(service: Path) -> Iterator[MakeDev]:
    """`make dev` of the service."""
    with make_dev(service) as dev:
        dev.until(READY)
        yield dev


@pytest.mark.parametrize("page", [path for path in PAGES if calls(path)] + [GENERATED], indirect=True)
def test_what_a_reader_types_is_answered(page: list[Block], service: Path, dev: MakeDev, tmp_path: Path) -> None:
    """Files are written, migrations made, calls sent, one after the other, as on the page."""
    reader = Reader(dev, tmp_path, task="none yet")
    written: list[str] = []
    follows = any("make migration" in block.text for block in page)
    for block in page if follows else [block for block in page if block.language in {"sh", "sql"}]:
        if block.path:
            restarts = dev.output().count("restarted")
            written.append(write(service, block))
            if block.path.endswith("/router.py"):
                dev.until("restarted", restarts + 1)
                [route] = re.findall(r'prefix="(.*?)"', block.text)
                wait_until(partial(serves, dev, route))
        if block.language == "sql":
            with closing(sqlite3.connect(service / ".dev" / "data.db")) as database, database:
                database.execute(block.text)
        for line in lines(block) if block.language == "sh" else ():
            match next(commands(Block("sh", line)), []):
                case ["make", "migration", *_] as command:
                    restarts = dev.output().count("restarted")
                    run(*command, folder=service)
                    dev.until("restarted", restarts + 1)
                    restart(dev)
                    wait_until(partial(is_ready, dev))
                case ["curl", *_] if follows or URL in block.text:
                    reader.type(line)
    if follows:
        check(service, written)
        tests = [path for path in written if path.startswith("tests/")]
        assert " passed" in run(python(service), "-m", "pytest", "-n", "0", *tests, folder=service)


def restart(dev: MakeDev) -> None:
    """Have it restart after all that is going on, and wait until it has."""
    said = len(dev.output())
    (dev.folder / "app" / "main.py").touch()
    wait_until(lambda: re.search(r"changed: .*app/main\.py(?s:.*)restarted", dev.output()[said:]) is not None)


def serves(dev: MakeDev, route: str) -> bool:
    """Tell whether it has that route by now."""
    return route in httpx.get(f"{dev.url}/openapi.json", timeout=DEADLINE_SECONDS).json()["paths"]


def is_ready(dev: MakeDev) -> bool:
    """Tell whether every migration it knows is applied."""
    return httpx.get(f"{dev.url}/health/ready", timeout=DEADLINE_SECONDS).status_code == 200


def test_every_call_is_in_the_reference(dev: MakeDev) -> None:
    api = httpx.get(f"{dev.url}/openapi.json", timeout=DEADLINE_SECONDS).json()["paths"]
    there = {f"{method.upper()} {path}" for path in api for method in api[path]}
    examples = {call for call in there if re.search(r" /(reports|signups|invoices|orders)", call)}
    first, *_ = tables(PAGES["docs/reference/http.md"])
    assert {word for row in first for word in words(row[0])} == there - examples


def test_the_examples_in_the_reference_have_the_fields_of_the_answers(dev: MakeDev) -> None:
    schemas = httpx.get(f"{dev.url}/openapi.json", timeout=DEADLINE_SECONDS).json()["components"]["schemas"]
    texts = [block.text for block in blocks(PAGES["docs/reference/http.md"]) if block.language == "json"]
    task, page, health, problem = map(json.loads, texts)
    for example, kind in ((task, "TaskView"), (page, "TaskPage"), (health, "Health"), (problem, "Problem")):
        assert list(example) == list(schemas[kind]["properties"])
    assert task["status"] in schemas["TaskStatus"]["enum"]
    assert list(task["progress"]) == list(schemas["TaskProgress"]["properties"])
    assert health["status"] in schemas["Health"]["properties"]["status"]["enum"]
    ready = httpx.get(f"{dev.url}/health/ready", timeout=DEADLINE_SECONDS).json()
    assert list(health["checks"]) == list(ready["checks"])
    assert httpx.get(f"{dev.url}/tasks?limit=1000", timeout=DEADLINE_SECONDS).json() == problem


def test_every_metric_is_in_the_reference(dev: MakeDev) -> None:
    said = httpx.get(f"{dev.url}/metrics", timeout=DEADLINE_SECONDS).text
    there = {re.sub("_g(count|sum)$", "", name) for name in re.findall(r"^# TYPE (\w+)", said, re.MULTILINE)}
    [table] = tables(PAGES["docs/reference/metrics.md"])
    assert {word for row in table for word in words(row[0])} == there


def write(service: Path, block: Block) -> str:
    """Write the file that a block is; return its path."""
    path = service / str(block.path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.content)
    return str(block.path)


def check(service: Path, written: list[str]) -> None:
    """Let the service's own linters and its type checker look at these files."""
    run(python(service), "-m", "ruff", "format", "--diff", *written, folder=service)
    run(python(service), "-m", "ruff", "check", *written, folder=service)
    run(python(service), "-m", "mypy", *written, folder=service)


def python(service: Path) -> Path:
    return service / ".venv" / "bin" / "python"
