"""Fixtures for the tests of the task engine."""

from collections.abc import Iterator

import pytest

from app import features
from app.tasks import registry


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    """Forget at the end the tasks that a test has defined; those of the features stay."""
    features.load_tasks()
    known = {task.name for task in registry}
    yield
    for name in {task.name for task in registry} - known:
        registry.remove(name)
