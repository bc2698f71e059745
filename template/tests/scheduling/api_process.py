"""Real processes of the API, as they run in production."""

import sys
from pathlib import Path

from app.settings import Settings
from scripts.servers.process import free_port
from tests.support.processes import ServiceProcess


class ApiProcess(ServiceProcess):
    """One process of the API."""

    def __init__(self, settings: Settings, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [sys.executable, "-m", "uvicorn", "tests.scheduling.api:app", "--port", str(port)], settings, log
        )
