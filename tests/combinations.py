"""The combinations of answers to copier.yml's questions, and the selection of them that gets the full treatment."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, product
from pathlib import Path
from typing import Any

import yaml
from covertable import make  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
TAKES_TURNS = {"license", "python_version"}
"""Answers of which each value is selected, but not each pair of it with another answer's: they change no code."""
IMPOSSIBLE: list[dict[str, str | bool]] = [{"task_queue": "arq", "broker": "rabbitmq"}]
"""Answers that are refused together."""

Answers = dict[str, str | bool]


@cache
def questions() -> dict[str, dict[str, Any]]:
    """Return the questions of copier.yml by their names."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
    return {name: question for name, question in content.items() if not name.startswith("_")}


@cache
def choices() -> dict[str, list[str | bool]]:
    """Return the values of each question that has a choice of them."""
    found = {name: _values(question) for name, question in questions().items()}
    return {name: values for name, values in found.items() if values}


def all_combinations() -> list[Answers]:
    """Return every combination of these values that is possible; the licences, which only change a text, take turns."""
    values = {name: each for name, each in choices().items() if name != "license"}
    every = (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))
    return [
        {**answers, "license": taken}
        for answers, taken in zip(filter(is_possible, every), cycle(choices()["license"]), strict=False)
    ]


def select(is_available: Callable[[str], bool] = lambda _: True) -> list[Answers]:
    """Return a few combinations in which every possible pair of the other answers appears.

    The Pythons take turns that are available; each of those that are not comes once, last.
    """
    values = choices()
    code = {name: each for name, each in values.items() if name not in TAKES_TURNS}
    rule = {
        "operator": "fn",
        "requires": sorted({name for pair in IMPOSSIBLE for name in pair}),
        "evaluate": is_possible,
    }
    rows = make(code, constraints=[rule])
    pythons = [str(version) for version in values["python_version"]]
    here = [version for version in pythons if is_available(version)] or pythons
    turns = [*zip(rows, cycle(here)), *((rows[0], version) for version in pythons if version not in here)]
    return [
        {**dict.fromkeys(values, ""), **row, "python_version": version, "license": taken}
        for (row, version), taken in zip(turns, cycle(values["license"]), strict=False)
    ]


def one_for_each_queue(selected: Sequence[Answers]) -> list[Answers]:
    """Return one of the selected combinations for each queue with each broker.

    It is one with PostgreSQL if there is any, and with schedules that the service itself drives.
    """
    chosen: dict[tuple[str | bool, str | bool], Answers] = {}
    for answers in sorted(
        selected,
        key=lambda answers: (answers["database"] != "postgresql", answers["scheduler"] in {"none", "external"}),
    ):
        chosen.setdefault((answers["task_queue"], answers["broker"]), answers)
    return [answers for answers in selected if answers in chosen.values()]


def is_possible(answers: Answers) -> bool:
    """Tell whether these answers go together."""
    return not any(refused.items() <= answers.items() for refused in IMPOSSIBLE)


def label(answers: Answers) -> str:
    """Return a short name: the answers to the questions that have more than one value."""
    several = {name for name, values in choices().items() if len(values) > 1}
    return "-".join(_word(name, value) for name, value in answers.items() if name in several) or "defaults"


def options(answers: Answers) -> list[str]:
    """Return the answers as options of Copier's command line."""
    return [part for name, value in answers.items() for part in ("-d", f"{name}={value}")]


def _values(question: dict[str, Any]) -> list[str | bool]:
    if question.get("type") == "bool":
        return [True, False]
    offered = question.get("choices", [])
    values = offered.values() if isinstance(offered, dict) else offered
    return [value["value"] if isinstance(value, dict) else value for value in values]


def _word(name: str, value: str | bool) -> str:
    if isinstance(value, bool):
        what = name.removeprefix("include_")
        return what if value else f"no_{what}"
    return value
