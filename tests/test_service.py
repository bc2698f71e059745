"""A selection of services in environments of their own: each passes its checks, starts, and finishes a real task."""

from itertools import combinations, product

import pytest

from tests.cells import IN_FULL, SELECTED, parts, treat
from tests.combinations import TAKES_TURNS, Answers, choices, is_possible, label, select
from tests.conftest import Check, Progress, Service
from tests.support import find_python


def test_every_pair_of_answers_is_selected_and_always_the_same(progress: Progress) -> None:
    for number, answers in enumerate(SELECTED, 1):
        tests = " ".join(parts(answers)) or "all tests"
        progress(f"cell {number}/{len(SELECTED)}: {label(answers)}, {tests}")
    assert select(lambda version: find_python(version) is not None) == SELECTED
    values = choices()
    for first, second in combinations([name for name in values if name not in TAKES_TURNS], 2):
        selected = IN_FULL if {first, second} == {"task_queue", "broker"} else SELECTED
        for pair in product(values[first], values[second]):
            wanted = dict(zip((first, second), pair, strict=True))
            if is_possible(wanted):
                assert any(wanted.items() <= answers.items() for answers in selected), f"{wanted} is in no cell"
    assert {answers["database"] for answers in IN_FULL} == set(values["database"])
    for name in TAKES_TURNS:
        assert {answers[name] for answers in SELECTED} == set(values[name])


@pytest.mark.parametrize("answers", IN_FULL, ids=label)
def test_it_passes_its_own_checks_and_finishes_a_real_task(
    service: Service, check: Check, progress: Progress, answers: Answers
) -> None:
    treat(service(**answers), answers, check, progress)
