"""The API of these tests' processes: it knows the tests' own schedule too."""

import tests.scheduling.every_second  # noqa: F401 (declares it)
from app.main import app

__all__ = ["app"]
