"""Every combination of answers renders to a clean service that shows no trace of the answers not given."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from tests.combinations import Answers, all_combinations, label, questions
from tests.conftest import Progress
from tests.support import Rendering, render_and_lint, render_faster

COMBINATIONS = all_combinations()
PROCESSES = 2

TRACES: dict[tuple[str, str | bool], str] = {
    ("database", "postgresql"): r"postgres|psycopg|asyncpg|pgserver|\bpsql\b|\b5432\b|advisory",
    ("database", "sqlite"): r"sqlite",
    ("task_queue", "arq"): r"\barq\b|\barq_|_arq\b",
    ("task_queue", "celery"): r"celery|kombu|\bflower\b",
    ("task_queue", "dramatiq"): r"dramatiq",
    ("task_queue", "rq"): r"\brq\b",
    ("broker", "redis"): r"redis(?!tribut)|valkey",
    ("broker", "rabbitmq"): r"rabbit|(?<!celery\.app\.)amqp",
    ("scheduler", "cron"): r"schedulers[./]cron|driven by the workers|workers drive",
    ("scheduler", "apscheduler"): r"apscheduler",
    ("scheduler", "external"): r"internal[_ ]token|/internal|crontab|cronjob|eventbridge|from outside",
    ("include_examples", True): r"reports|signups|smtp|email|welcome",
}
"""What betrays each answer; it may stand only where the answer was given. Answers not offered yet are betrayed too."""

SCHEDULES = r"cronsim|tzdata|\bschedules?\b|schedulers?\b|scheduling|scheduled|schedules_paused"
"""What betrays any scheduler; where nothing drives schedules it may stand only for the table, which is always there."""
TABLE = {"app/tasks/models.py", "migrations/tasks/0001_tasks.py", "tests/test_migrations.py"}

WORDS_OF_GIT = re.compile(r"^ *schedule:$|\buser\.email\b", re.MULTILINE)
"""What the files for GitHub and git cannot do without, although other answers have the words too."""

LICENSES = {"MIT": "MIT License", "Apache-2.0": "Apache License", "proprietary": "All rights reserved"}
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
LEFTOVERS = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{|copier\.yml")


# Most files are the same in many combinations: what is found in one is remembered.


@cache
def read(suffix: str, text: str) -> None:
    """Parse a file. Raises ValueError, or what the parser raises."""
    match suffix:
        case ".toml":
            tomllib.loads(text)
        case ".yaml" | ".yml":
            list(yaml.safe_load_all(text))
        case ".json":
            json.loads(text)


@cache
def find_trace(pattern: str, name: str, text: str) -> str:
    """Return the line that shows the pattern, or nothing."""
    content = _without_words_of_git(name, text)
    found = re.search(pattern, f"{name}\n{content}", re.IGNORECASE)
    return _line_of(found, name, content) if found else ""


@cache
def find_leftover(name: str, text: str) -> str:
    """Return the line that shows the template language, or nothing."""
    found = LEFTOVERS.search(text)
    return _line_of(found, name, text, offset=0) if found else ""


@cache
def assert_tidy(name: str, text: str) -> None:
    """Raise AssertionError for what no editor would leave in a file."""
    if not name.endswith("__init__.py"):
        assert text.strip(), f"{name} is empty"
    assert "\r" not in text, f"{name} has line ends of Windows"
    assert not text.startswith("\n"), f"{name} starts with an empty line"
    if text:
        assert text.endswith("\n"), f"{name} does not end with a newline"
        assert not text.endswith("\n\n"), f"{name} ends with empty lines"
    gap = r"\n\n\n\n" if name.endswith((".py", ".mako")) else r"\n\n\n"
    prose = re.sub(r"^```.*?^```$", "code", text, flags=re.DOTALL | re.MULTILINE)
    assert re.search(gap, prose) is None, f"{name} has a gap of empty lines"
    trailing = re.search(r"^.*[ \t]+$", text, re.MULTILINE)
    assert not trailing, f"{name} has spaces at the end of a line: {trailing}"


@pytest.fixture(scope="module")
def source(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a plain folder, which need not be cloned for each rendering; others render the repository."""
    folder = tmp_path_factory.mktemp("p").resolve()
    return shutil.copytree(template, folder / "template", ignore=shutil.ignore_patterns(".git"))


@pytest.fixture(scope="module")
def renderings(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Rendering]]]:
    """All the renderings that the selected tests need, made ahead by processes beside them."""
    folder = tmp_path_factory.mktemp("r").resolve()
    selected = " ".join(item.name for item in request.session.items)
    wanted = {label(answers): answers for answers in COMBINATIONS if f"[{label(answers)}]" in selected}
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), render_faster) as pool:
        yield {name: pool.submit(render_and_lint, source, folder / name, wanted[name]) for name in wanted}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module", params=COMBINATIONS, ids=label)
def rendering(
    request: pytest.FixtureRequest, renderings: dict[str, Future[Rendering]], progress: Progress
) -> tuple[Answers, Rendering]:
    """One combination and its rendering."""
    answers: Answers = request.param
    done = renderings[label(answers)].result()
    number = f"{COMBINATIONS.index(answers) + 1:3}/{len(COMBINATIONS)}"
    progress(f"{done.seconds:5.1f} s  {number}  {label(answers)}")
    return answers, done


@pytest.fixture(scope="module")
def texts(rendering: tuple[Answers, Rendering]) -> dict[str, str]:
    """The files of the rendering by their paths."""
    folder = rendering[1].folder
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in paths}


def test_it_is_formatted_and_lint_clean(rendering: tuple[Answers, Rendering]) -> None:
    if rendering[1].complaints:
        pytest.fail(rendering[1].complaints, pytrace=False)


def test_every_file_can_be_read(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        read(Path(name).suffix, text)


def test_no_trace_of_other_answers(rendering: tuple[Answers, Rendering], texts: dict[str, str]) -> None:
    answers = rendering[0]
    for (question, value), pattern in TRACES.items():
        if answers[question] == value:
            continue
        for name, text in texts.items():
            found = find_trace(pattern, name, "" if name == ".copier-answers.yml" else text)
            assert not found, f"{name} shows {question}={value}: {found}"


def test_no_trace_of_schedules_where_nothing_drives_them(
    rendering: tuple[Answers, Rendering], texts: dict[str, str]
) -> None:
    for name, text in texts.items() if rendering[0]["scheduler"] == "none" else ():
        found = find_trace(SCHEDULES, name, "" if name in TABLE | {".copier-answers.yml"} else text)
        assert not found, f"{name} shows a scheduler: {found}"


def test_no_leftovers_of_the_template(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        assert not name.endswith((".jinja", ".rej", ".orig")), name
        found = find_leftover(name, text)
        assert not found, f"{name}: {found}"


def test_files_are_tidy(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        assert_tidy(name, text)


def test_names_are_legal_everywhere(rendering: tuple[Answers, Rendering]) -> None:
    folder = rendering[1].folder
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    assert len({path.as_posix().lower() for path in paths}) == len(paths), "two names differ in case only"
    for path in paths:
        assert not re.search(r'[<>:"\\|?*{}\s]|[. ]$', path.name), path
        assert path.name.split(".")[0].lower() not in RESERVED, path
        assert (folder / path).is_file() or any((folder / path).iterdir()), f"{path} is an empty folder"


def test_the_answers_are_on_record(rendering: tuple[Answers, Rendering], source: Path) -> None:
    answers, done = rendering
    recorded = yaml.safe_load((done.folder / ".copier-answers.yml").read_text())
    asked = {name for name, question in questions().items() if question.get("when") is not False}
    assert recorded.keys() == {"_src_path"} | asked
    assert recorded["_src_path"] == str(source)
    assert {name: recorded[name] for name in answers} == answers


def test_licence_and_python_are_those_asked_for(rendering: tuple[Answers, Rendering], texts: dict[str, str]) -> None:
    answers = rendering[0]
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert project["requires-python"] == f">={answers['python_version']}"
    assert LICENSES[str(answers["license"])].lower() in texts["LICENSE"].lower()
    expected = "LicenseRef-Proprietary" if answers["license"] == "proprietary" else answers["license"]
    assert project["license"] == expected


def _without_words_of_git(name: str, text: str) -> str:
    return WORDS_OF_GIT.sub("", text) if name.startswith((".github/", "scripts/update.py")) else text


def _line_of(found: re.Match[str] | None, name: str, text: str, *, offset: int | None = None) -> str:
    if found is None:
        return ""
    place = found.start() - (len(name) + 1 if offset is None else offset)
    if place < 0:
        return "its name"
    return f"line {text.count(chr(10), 0, place) + 1}: {text[place : place + 60].splitlines()[0]}"
