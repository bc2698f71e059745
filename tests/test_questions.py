"""The questions: every wrong answer is refused with a message that helps, every right one renders a valid project."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.combinations import IMPOSSIBLE, Answers, choices, questions
from tests.support import render, render_and_lint, run_copier

WRONG = {
    "project_name": ["", "   ", "x" * 61, 'The "best" service', "back\\slash", "two\nlines", " at the ends "],
    "project_slug": ["", "Orders", "9orders", "order--service", "orders-", "order_service", "a b", "o" * 41, "größe"],
    "description": ["", 'Says "hello".', "back\\slash", "two\nlines", " at the ends "],
    "author": ["", " ", 'A "nick" name', "back\\slash", "two\nlines", " at the ends "],
    "include_examples": ["perhaps"],
} | {name: ["cobol", ""] for name, values in choices().items() if not isinstance(values[0], bool)}

RIGHT = [
    {"project_name": "L'Été à Łódź", "author": "Renée O'Hara-Müller", "description": "It's 100 % {ready}, 你好."},
    {"project_name": "9 Lives & more <3", "author": "R&D", "description": "One: two # three; $HOME `ls` %s."},
    {"project_name": "Ünï", "author": "Ana", "description": "'quoted' at the start, - and: colons"},
    {"project_name": "注文サービス", "author": "田中", "description": "."},
    {"project_name": "null", "author": "no", "description": "{{ yes }} {% no %}"},
    {"project_name": "x" * 60, "author": "a, b and c", "description": "long " * 40 + "enough."},
]


def test_every_question_has_a_default_and_help() -> None:
    for name, question in questions().items():
        assert "default" in question, f"{name} has no default"
        assert question.get("help", "").strip(), f"{name} has no help"
        assert question["type"] == "bool" or "choices" in question or "validator" in question, f"{name} takes anything"


def test_defaults_render(template: Path, tmp_path: Path) -> None:
    said = run_copier("copy", "--defaults", "--vcs-ref", "HEAD", template, "service", folder=tmp_path)
    recorded = yaml.safe_load((tmp_path / "service" / ".copier-answers.yml").read_text())
    assert {name: recorded[name] for name in ("task_queue", "broker", "database", "include_examples")} == {
        "task_queue": "arq",
        "broker": "redis",
        "database": "postgresql",
        "include_examples": True,
    }
    assert "make dev" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("question", "answer"), [(name, answer) for name in WRONG for answer in WRONG[name]])
def test_a_wrong_answer_is_refused(template: Path, tmp_path: Path, question: str, answer: str) -> None:
    with pytest.raises(ValueError, match=question) as refused:
        render(template, tmp_path / "service", {question: answer})
    message = str(refused.value).replace(f"'{question}'", "")
    assert re.search(r"\b(use|needed|choice)\b", message, re.IGNORECASE), message
    assert not (tmp_path / "service").exists()


@pytest.mark.parametrize("answers", IMPOSSIBLE)
def test_answers_that_do_not_go_together_are_refused(template: Path, tmp_path: Path, answers: Answers) -> None:
    with pytest.raises(ValueError, match=r"RabbitMQ needs Celery|needs Celery"):
        render(template, tmp_path / "service", answers)
    assert not (tmp_path / "service").exists()


def test_the_refusal_is_what_a_person_reads(template: Path, tmp_path: Path) -> None:
    said = run_copier(
        "copy", "--defaults", "--vcs-ref", "HEAD", "-d", "project_slug=Orders", template, "o", folder=tmp_path, rc=None
    )
    assert "Use lower-case letters, digits and single hyphens" in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("answers", RIGHT)
@pytest.mark.parametrize("database", choices()["database"])
def test_unusual_names_render_a_valid_project(
    template: Path, tmp_path: Path, answers: dict[str, str], database: str
) -> None:
    done = render_and_lint(template, tmp_path / "service", {**answers, "database": database, "license": "MIT"})
    assert not done.complaints, done.complaints
    project = tomllib.loads((done.folder / "pyproject.toml").read_text())["project"]
    assert project["description"] == answers["description"]
    assert project["authors"] == [{"name": answers["author"]}]
    assert re.fullmatch(r"[a-z][a-z0-9-]*", project["name"]), project["name"]
    assert {answers["project_name"], answers["description"]} <= _constants(done.folder / "app" / "factory.py")
    assert answers["author"] in (done.folder / "LICENSE").read_text()
    compose = yaml.safe_load((done.folder / "compose.yaml").read_text())
    assert compose["name"] == project["name"]
    recorded = yaml.safe_load((done.folder / ".copier-answers.yml").read_text())
    assert {name: recorded[name] for name in answers} == answers


def test_an_answer_to_no_question_changes_nothing(template: Path, tmp_path: Path) -> None:
    render(template, tmp_path / "plain", {})
    render(template, tmp_path / "with", {"database_flavour": "cobol"})
    plain, other = ((tmp_path / name / ".copier-answers.yml").read_text() for name in ("plain", "with"))
    assert plain == other


def _constants(path: Path) -> set[object]:
    return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
