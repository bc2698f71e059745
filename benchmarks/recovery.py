"""Measures how long tasks of a generated service wait after a failure, and how fast it answers without its broker.

    python benchmarks/recovery.py [--queue celery] [--broker rabbitmq] [--database sqlite]

One API process and two workers with the default lease (15 s), the embedded servers, all on loopback. One line a figure.
RabbitMQ is the one that BROKER_URL names; it is not emptied, and what is frozen is a relay in front of it.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from service import FEATURE, TEMPLATE, answers, completed, free_port, percentiles, report, running_in, submit, wait_for
from throughput import Service, servers, worker_command  # beside this file

GRACE_SECONDS = 5
LOST = 50
ANSWERS = 200


def command(broker_url: str, text: str) -> str:
    """Send the broker a command; return its answer."""
    address = urlsplit(broker_url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        login = f"AUTH {address.username or 'default'} {address.password}\r\n" if address.password else ""
        connection.sendall(f"{login}{text}\r\nQUIT\r\n".encode())
        answer = connection.makefile(newline="").read()
    if "-NOAUTH" in answer or "-ERR" in answer:
        raise SystemExit(f"the broker refuses {text}: {answer}")
    return answer


def main_process(of: int, queue: str) -> int:
    """Return the main process of the worker in which a task runs."""
    parent = int(Path(f"/proc/{of}/stat").read_text().rpartition(")")[2].split()[1])
    return parent if queue == "celery" else of


def measure_worker(service: Service, client: httpx.Client, queue: str, number: signal.Signals, *, main: bool) -> float:
    """Start two workers, and send a signal to one that runs a task; return how long until it runs somewhere else."""
    worker = worker_command(queue, "prefork", is_bare=False)
    with service.process(*worker), service.process(*worker):
        time.sleep(5)  # both have started
        location = submit(client, "/measured/long")
        runner = wait_for("the long task", lambda: running_in(client, location))
        os.kill(main_process(runner, queue) if main else runner, number)
        begun = time.monotonic()
        wait_for("the other process", lambda: running_in(client, location) not in (runner, None))
        seconds = time.monotonic() - begun
        client.post(f"{location}/cancel")
        wait_for("the cancellation", lambda: client.get(location).json()["status"] == "cancelled")
    return seconds


def measure_wiped(service: Service, client: httpx.Client, queue: str, broker_url: str) -> float:
    """Empty the broker while messages wait in it; return how long until the last of their tasks is completed."""
    with service.process(*worker_command(queue, "prefork", is_bare=False)):
        first = submit(client, "/measured/nothing")
        wait_for("a first task", lambda: completed(client, first))
        location = submit(client, "/measured/long")
        worker = main_process(wait_for("the long task", lambda: running_in(client, location)), queue)
        client.post(f"{location}/cancel")
        wait_for("the cancellation", lambda: client.get(location).json()["status"] == "cancelled")
        os.kill(worker, signal.SIGSTOP)  # so that messages wait
        lost = [submit(client, "/measured/nothing") for _ in range(LOST)]
        command(broker_url, "FLUSHALL")
        os.kill(worker, signal.SIGCONT)
        begun = time.monotonic()
        for location in lost:
            wait_for("a lost task", partial(completed, client, location))
        return time.monotonic() - begun


def measure_answers(client: httpx.Client) -> str:
    """Return how long submissions take to be answered with 202."""
    seconds = []
    for _ in range(ANSWERS):
        begun = time.monotonic()
        submit(client, "/measured/nothing")
        seconds.append(time.monotonic() - begun)
    return percentiles(seconds)


@contextmanager
def relayed(url: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a relay in front of a broker; give the URL that leads through it, and its process."""
    port, address = free_port(), urlsplit(url)
    server = f"{address.hostname}:{address.port or 5672}"
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("relay.py")), str(port), server])
    try:
        user, at, _ = address.netloc.rpartition("@")
        yield address._replace(netloc=f"{user}{at}127.0.0.1:{port}").geturl(), process
    finally:
        process.kill()
        process.wait()


def measure(
    service: Service, queue: str, broker: str, urls: dict[str, str], relay: subprocess.Popen[bytes] | None
) -> None:
    """Measure one service."""
    port = free_port()
    with (
        service.process("uvicorn", "app.main:app", "--port", str(port), "--no-access-log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        wait_for("the API", lambda: answers(client))
        if queue == "celery":
            seconds = measure_worker(service, client, queue, signal.SIGKILL, main=False)
            report("SIGKILL of one process of a worker, until its task runs again", f"{seconds:.1f} s")
        seconds = measure_worker(service, client, queue, signal.SIGKILL, main=True)
        report("SIGKILL of a worker (lease 15 s), until its task runs again", f"{seconds:.1f} s")
        seconds = measure_worker(service, client, queue, signal.SIGTERM, main=True)
        report(f"SIGTERM of a worker (grace {GRACE_SECONDS} s), until its task runs again", f"{seconds:.1f} s")
        report("202 with the broker there", measure_answers(client))
        if broker == "redis":
            seconds = measure_wiped(service, client, queue, urls["BROKER_URL"])
            report(f"FLUSHALL with {LOST} messages waiting, until all have run", f"{seconds:.1f} s")
            process = int(command(urls["BROKER_URL"], "INFO server").partition("process_id:")[2].partition("\r")[0])
        else:
            assert relay is not None
            process = relay.pid
        os.kill(process, signal.SIGSTOP)
        report("202 with a frozen broker", measure_answers(client))
        os.kill(process, signal.SIGCONT)
        os.kill(process, signal.SIGKILL)
        report("202 with a broker that is gone", measure_answers(client))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--queue", choices=["arq", "celery"], default="arq")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    arguments = parser.parse_args()
    given = {"database": arguments.database, "task_queue": arguments.queue, "broker": arguments.broker}
    print(*given.values(), f"{os.cpu_count()} cores", sep=", ")
    with tempfile.TemporaryDirectory(prefix="measured-") as place, ExitStack() as stack:
        folder = Path(place) / "service"
        options = [option for name, value in given.items() for option in ("-d", f"{name}={value}")]
        copy = ["copier", "copy", "--quiet", "--defaults", "--vcs-ref=HEAD", *options]
        subprocess.run([sys.executable, "-m", *copy, "-d", "include_examples=false", TEMPLATE, folder], check=True)
        (folder / "app" / "measured").mkdir()
        for name, text in FEATURE.items():
            (folder / "app" / "measured" / name).write_text(text)
        subprocess.run(["make", "--silent", "setup"], cwd=folder, check=True)
        urls = stack.enter_context(servers(folder))
        relay = None
        if arguments.broker == "rabbitmq":
            urls["BROKER_URL"], relay = stack.enter_context(relayed(os.environ["BROKER_URL"]))
        service = Service(folder, urls)
        service.environment["SHUTDOWN_GRACE_SECONDS"] = str(GRACE_SECONDS)
        service.run("alembic", "upgrade", "heads")
        measure(service, arguments.queue, arguments.broker, urls, relay)


if __name__ == "__main__":
    main()
