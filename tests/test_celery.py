"""Services on Celery: what `make dev` says without RabbitMQ, and Flower behind its password."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx

from tests import support
from tests.test_dev import DEADLINE_SECONDS, READY, make_dev, wait_until

Service = Callable[..., Path]


def test_without_rabbitmq_make_dev_says_what_to_start(service: Service) -> None:
    folder = service(task_queue="celery", broker="rabbitmq", database="sqlite")
    own_port = f"PORT={support.free_port()}"
    said = support.run("env", own_port, "make", "dev", folder=folder, rc=2)
    assert "BROKER_URL is not set" in said
    for way in (
        "docker run",
        "apt-get install rabbitmq-server",
        "BROKER_URL=amqp://guest:guest@127.0.0.1:5672// make dev",
    ):
        assert way in said
    nobody = f"BROKER_URL=amqp://guest:guest@127.0.0.1:{support.free_port()}//"
    assert "nothing answers there" in support.run("env", own_port, nobody, "make", "dev", folder=folder, rc=2)


def test_flower_asks_for_its_password_and_shows_the_worker(service: Service) -> None:
    folder = service(task_queue="celery", database="sqlite")
    with make_dev(folder) as dev:
        dev.until(READY)
        assert "FLOWER_PASSWORD is not set" in support.run("make", "flower", folder=folder, rc=2)
        port = support.free_port()
        given = {"FLOWER_PASSWORD": "a secret of the test", "FLOWER_PORT": str(port)}
        flower = subprocess.Popen(["make", "flower"], cwd=folder, env=os.environ | given, start_new_session=True)
        try:
            wait_until(lambda: is_up(port))
            url = f"http://127.0.0.1:{port}/"
            with httpx.Client(timeout=DEADLINE_SECONDS) as client:
                assert client.get(url).status_code == 401
                assert client.get(url, auth=("app", "another")).status_code == 401
                shown = client.get(url, auth=("app", given["FLOWER_PASSWORD"]))
            assert shown.status_code == 200
            assert "Flower" in shown.text
        finally:
            os.killpg(flower.pid, signal.SIGTERM)
            flower.wait(DEADLINE_SECONDS)


def is_up(port: int) -> bool:
    """Tell whether it answers at all."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/")
    except httpx.TransportError:
        return False
    return True
