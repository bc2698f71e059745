"""Migrations: they make exactly what the models say, and can be undone."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from app.database import Base, Database
from app.features import load_models
from tests.support import databases
from tests.support.processes import ROOT
from tests.support.waiting import until

VERSIONS = "alembic_version"

Schema = dict[str, dict[str, Any]]


@pytest.fixture
def config(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Alembic, on the test's database, which is migrated."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Config(ROOT / "alembic.ini")


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    """A database without tables."""
    url = databases.create_migrated(os.environ["TEST_DATABASE_URL"])
    yield url
    databases.drop(os.environ["TEST_DATABASE_URL"], url)


def read_schema(url: str, *, create: bool = False) -> Schema:
    """Return what a database holds, after creating all tables from the models if that is asked for."""

    async def read() -> Schema:
        database = Database(url, pool_size=2)
        async with database.begin() as connection:
            if create:
                await connection.run_sync(Base.metadata.create_all)
            schema = await connection.run_sync(describe)
        await database.close()
        return schema

    return asyncio.run(read())


def describe(connection: Connection) -> Schema:
    """Return every table with its columns, keys, constraints and indexes, in an order that does not depend on time."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": {
                column["name"]: (repr(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(inspector.get_foreign_keys(table), key=repr),
            "unique": sorted(inspector.get_unique_constraints(table), key=repr),
            "checks": sorted(inspector.get_check_constraints(table), key=repr),
            "indexes": {
                index["name"]: (index["column_names"], index["unique"], predicates(index.get("dialect_options", {})))
                for index in inspector.get_indexes(table)
            },
        }
        for table in inspector.get_table_names()
        if table != VERSIONS
    }


def predicates(options: dict[str, Any]) -> dict[str, str]:
    """Return an index's options as text: which rows it holds is one of them."""
    return {name: str(value) for name, value in options.items()}


def test_the_models_need_no_further_migration(config: Config) -> None:
    command.check(config)


def test_the_migrations_make_the_schema_of_the_models(database_url: str, empty_database_url: str) -> None:
    load_models()
    migrated = read_schema(database_url)
    assert migrated == read_schema(empty_database_url, create=True)
    # The comparison would see what Alembic's own does not: conditions.
    assert "pending" in str(migrated["tasks"]["indexes"]["ix_tasks_unsent"])
    assert "cancelled" in str(migrated["tasks"]["checks"])


def test_the_migrations_can_be_undone_and_done_again(config: Config, database_url: str) -> None:
    before = read_schema(database_url)
    assert before
    command.downgrade(config, "base")
    assert read_schema(database_url) == {}
    command.upgrade(config, "heads")
    assert read_schema(database_url) == before


async def test_all_revisions_are_one_transaction(empty_database_url: str, tmp_path: Path) -> None:
    database = Database(empty_database_url, pool_size=2)
    refused = "CHECK (version_num <> 'app_0001')"
    async with database.begin() as connection:
        await connection.execute(text(f"CREATE TABLE {VERSIONS} (version_num VARCHAR(32) {refused})"))
    log = tmp_path / "upgrade.log"
    assert await asyncio.to_thread(upgrade(empty_database_url, log).wait) != 0
    assert "Running upgrade  -> tasks_0001" in log.read_text()
    async with database.begin() as connection:
        assert await connection.run_sync(describe) == {}, "what came before the one that failed is undone"
    await database.close()


async def test_processes_that_migrate_at_the_same_time_wait_for_each_other(
    empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    database = Database(empty_database_url, pool_size=2)
    async with database.engine.connect() as connection:
        # Until all are here, nobody gets on: then they meet.
        await connection.execute(text(f"CREATE TABLE {VERSIONS} (version_num VARCHAR(32))"))
        processes = [upgrade(empty_database_url, log) for log in logs]
        await until(lambda: all("Context impl" in log.read_text() for log in logs))
        await connection.rollback()
    for process in processes:
        await asyncio.to_thread(process.wait)
    await database.close()
    said = [log.read_text() for log in logs]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("Running upgrade" in log for log in said) == 1
    made, expected = [await asyncio.to_thread(read_schema, url) for url in (empty_database_url, database_url)]
    assert made == expected


def upgrade(url: str, log: Path) -> "subprocess.Popen[bytes]":
    """Migrate in a process of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "heads"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def test_each_branch_has_one_head(config: Config) -> None:
    scripts = ScriptDirectory.from_config(config)
    heads = [scripts.get_revision(head) for head in scripts.get_heads()]
    branches = [frozenset(head.branch_labels) for head in heads if head is not None]
    assert len(branches) == len(set(branches)) <= 3
    assert {"tasks"} in branches
    assert {"app"} in branches
