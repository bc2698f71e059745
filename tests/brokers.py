"""RabbitMQ for services that use it: the one that runs on this machine, with a prefix of each test's own."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.combinations import Answers
from tests.support import run

RABBITMQ = ("127.0.0.1", 5672)
URL = "amqp://guest:guest@127.0.0.1:5672//"
FORGET = (
    "from app.settings import get_settings; from tests.support.brokers import forget_queues as f; f(get_settings())"
)


@contextmanager
def broker_of(folder: Path, answers: Answers) -> Iterator[dict[str, str]]:
    """Give the variables with which a service of these answers finds its broker: none if it brings its own.

    Without RabbitMQ the test is skipped; in CI it fails.
    """
    if answers.get("broker") != "rabbitmq":
        yield {}
        return
    try:
        socket.create_connection(RABBITMQ, timeout=5).close()
    except OSError as error:
        missing = f"RabbitMQ does not answer at {RABBITMQ[0]}:{RABBITMQ[1]} ({error})"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    variables = {"BROKER_URL": URL, "BROKER_PREFIX": f"test-{uuid4().hex[:12]}"}
    yield variables
    settings = [f"{name}={value}" for name, value in {**variables, "TEST_BROKER_URL": URL}.items()]
    database = f"DATABASE_URL={'sqlite:////nowhere' if answers.get('database') == 'sqlite' else 'postgresql://a/b'}"
    run("env", *settings, database, folder / ".venv" / "bin" / "python", "-c", FORGET, folder=folder)
