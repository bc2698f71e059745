"""The other cells: strict types, the contract of queues, the tests of schedules that are their own, and a real task."""

import pytest

from tests.cells import IN_PART, treat
from tests.combinations import Answers, label
from tests.conftest import Check, Progress, Service


@pytest.mark.parametrize("answers", IN_PART, ids=label)
def test_it_keeps_the_contract_and_finishes_a_real_task(
    service: Service, check: Check, progress: Progress, answers: Answers
) -> None:
    treat(service(**answers), answers, check, progress)
