"""Settings: a wrong one ends the process with a line that names it and says what is allowed, and no secret."""

import os
import subprocess
import sys

import pytest

from app.settings import Settings, get_database_url, get_settings
from tests.support.processes import ROOT, environment


@pytest.fixture
def variables(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of this process, with right settings: change it, then call `get_settings`."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return monkeypatch


def refused(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Read the settings, which are wrong; return the lines that say so."""
    with pytest.raises(SystemExit) as ended:
        get_settings()
    assert ended.value.code == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "The settings are not right:"
    return lines


def test_settings_are_read_from_the_environment(variables: pytest.MonkeyPatch, settings: Settings) -> None:
    variables.setenv("LOG_LEVEL", "DEBUG")
    variables.setenv("TASK_LEASE_SECONDS", "2.5")
    assert (get_settings().log_level, get_settings().task_lease_seconds) == ("DEBUG", 2.5)
    assert get_settings().database_url == settings.database_url


def test_an_empty_variable_is_as_good_as_none(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("LOG_LEVEL", "")
    assert get_settings().log_level == "INFO"


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL"])
def test_a_missing_url_is_named(name: str, variables: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    variables.delenv(name)
    [line] = refused(capsys)
    assert line.startswith(f"  {name}: it is not set")
    assert "make dev" in line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DATABASE_URL", "hunter2", "this is not a URL"),
        ("DATABASE_URL", "mysql://user:hunter2@host/name", "use "),
        ("BROKER_URL", "http://:hunter2@host:6379", "use "),
        ("LOG_LEVEL", "hunter2", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("LOG_FORMAT", "hunter2", "'console' or 'json'"),
        ("ENVIRONMENT", "hunter2", "'development' or 'production'"),
        ("TASK_LEASE_SECONDS", "0", "greater than or equal to 0.3"),
        ("TASK_LEASE_SECONDS", "hunter2", "valid number"),
        ("TASK_LEASE_SECONDS", "nan", "less than or equal to 3600"),
        ("TASK_RETENTION_DAYS", "0", "greater than 0"),
        ("TASK_RETENTION_DAYS", "inf", "less than or equal to 36500"),
        ("WORKER_CONCURRENCY", "0", "greater than or equal to 1"),
        ("DATABASE_POOL_SIZE", "1", "greater than or equal to 2"),
        ("SHUTDOWN_GRACE_SECONDS", "-1", "greater than or equal to 0"),
        ("SHUTDOWN_GRACE_SECONDS", "inf", "less than or equal to 3600"),
        ("BROKER_PREFIX", "hunter2 hunter2", "pattern"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed_and_not_repeated(
    name: str, value: str, allowed: str, variables: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables.setenv(name, value)
    [line] = refused(capsys)
    assert line.startswith(f"  {name}: ")
    assert allowed in line
    assert "hunter2" not in line


def test_all_that_is_wrong_is_named_at_once(variables: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    variables.delenv("DATABASE_URL")
    variables.setenv("LOG_LEVEL", "loud")
    assert [line.split(":")[0].strip() for line in refused(capsys)] == ["DATABASE_URL", "LOG_LEVEL"]


def test_secrets_are_not_shown_with_the_settings(settings: Settings) -> None:
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.database_url.get_secret_value() not in shown
    assert settings.broker_url.get_secret_value() not in shown


def test_migrations_need_the_database_alone(variables: pytest.MonkeyPatch, settings: Settings) -> None:
    variables.delenv("BROKER_URL")
    assert get_database_url() == settings.database_url.get_secret_value()


def test_a_service_without_settings_ends_with_code_2_and_no_traceback() -> None:
    bare = {name: value for name, value in os.environ.items() if name.upper() not in Settings.model_fields}
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"],
        cwd=ROOT,
        env={name.upper(): value for name, value in bare.items()} | {"ENV_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "DATABASE_URL: it is not set" in ended.stderr
    assert "BROKER_URL: it is not set" in ended.stderr
