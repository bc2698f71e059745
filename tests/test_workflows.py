"""The workflows, the template's own and the generated ones: valid, careful, and right for what was answered."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.combinations import ROOT, Answers, choices, label
from tests.conftest import Service
from tests.documents import blocks, pages
from tests.support import render, run
from tests.test_container import servers
from tests.test_copy_update import change

BIN = Path(sys.executable).parent
CONFIG = ROOT / ".github" / "zizmor.yml"
OWN = ["ci.yml", "release.yml"]
GENERATED = ["ci.yml", "template-update.yml"]
MIGRATE = ".venv/bin/alembic upgrade heads"
FIRST_PARTY = ("actions/checkout@v", "actions/setup-python@v")
ANSWERS: list[Answers] = [
    {},
    {"database": "sqlite", "include_examples": False, "scheduler": "none"},
    {"task_queue": "celery", "broker": "rabbitmq", "python_version": "3.13"},
    {"task_queue": "celery", "database": "sqlite"},
]


@pytest.fixture(scope="module", params=["own", *ANSWERS], ids=["own", *map(label, ANSWERS)])
def folder(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template itself, and a few services."""
    if request.param == "own":
        return ROOT
    place = tmp_path_factory.mktemp("w") / "service"
    render(template, place, request.param)
    return place


def workflows(folder: Path) -> list[Path]:
    """Return the paths of its workflows."""
    paths = sorted((folder / ".github" / "workflows").iterdir())
    assert [path.name for path in paths] == (OWN if folder == ROOT else GENERATED)
    return paths


def read(path: Path) -> dict[Any, Any]:
    """Read a workflow; YAML takes its key `on` for a yes."""
    content: dict[Any, Any] = yaml.safe_load(path.read_text())
    return content


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_they_are_what_github_takes(folder: Path) -> None:
    check = BIN / "check-jsonschema"
    run(check, "--builtin-schema", "vendor.github-workflows", *workflows(folder), folder=folder)
    run(check, "--builtin-schema", "vendor.dependabot", folder / ".github" / "dependabot.yml", folder=folder)


def test_an_auditor_finds_nothing(folder: Path) -> None:
    run(BIN / "zizmor", "--offline", "--no-progress", "--config", CONFIG, folder / ".github", folder=folder)


def test_they_may_read_and_what_may_more_says_so(folder: Path) -> None:
    for path in workflows(folder):
        content = read(path)
        assert content["permissions"] in ({}, {"contents": "read"}), path.name
        for job in content["jobs"].values():
            assert job["timeout-minutes"] <= 90
            if "write" in job.get("permissions", {}).values():
                assert path.name in {"release.yml", "template-update.yml"}
                assert not {"pull_request", "pull_request_target"} & content[True].keys()
            for step in job["steps"]:
                if "uses" in step:
                    assert step["uses"].startswith(FIRST_PARTY)


def test_dependabot_leaves_what_the_template_updates(folder: Path) -> None:
    """A group's `update-types` would only say what is grouped: others come one by one."""
    [actions] = [
        update
        for update in read(folder / ".github" / "dependabot.yml")["updates"]
        if update["package-ecosystem"] == "github-actions"
    ]
    if folder == ROOT:
        # It reads the workflows below "/", and any other folder just as it is named.
        assert actions["directories"] == ["/", "/template/.github/workflows"]
        assert (ROOT / "template" / ".github" / "workflows").is_dir()
        return
    [lock] = [
        update
        for update in read(folder / ".github" / "dependabot.yml")["updates"]
        if update["package-ecosystem"] == "uv"
    ]
    assert lock["versioning-strategy"] == "lockfile-only", "the bounds in pyproject.toml are the template's"
    assert actions["ignore"] == [{"dependency-name": "*", "update-types": ["version-update:semver-major"]}]
    used = [step["uses"] for path in workflows(folder) for step in steps(path) if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used), "they name major versions"


def test_what_the_page_leaves_to_renovate_is_what_renovate_takes(tmp_path: Path) -> None:
    [text] = [block.text for block in blocks(pages()["docs/how-to/update.md"]) if block.language == "json"]
    (tmp_path / "renovate.json").write_text(text)
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.renovate", "renovate.json", folder=tmp_path)


def test_all_workflows_use_the_same_actions(folder: Path) -> None:
    """Dependabot cannot read those that are templates of a workflow."""
    known = {step["uses"] for path in workflows(ROOT) for step in steps(path) if "uses" in step}
    for path in workflows(folder):
        assert {step["uses"] for step in steps(path) if "uses" in step} <= known, path.name


def test_their_shell_can_be_read(folder: Path) -> None:
    for path in workflows(folder):
        for job in read(path)["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    assert "${{" not in step["run"], "expressions reach the shell by variables, or they could be code"
                    subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


def test_every_program_they_run_is_there(folder: Path) -> None:
    """`make` targets, and files of the repository."""
    makefile = (folder / "Makefile").read_text()
    for path in workflows(folder):
        for job in read(path)["jobs"].values():
            for line in "\n".join(step.get("run", "") for step in job["steps"]).splitlines():
                match line.split():
                    case ["make", target, *_]:
                        assert f"\n{target}: " in makefile
                    case ["python", program, *_]:
                        assert (folder / program).is_file()


def test_a_change_is_checked_on_every_python_on_offer_and_in_a_service_migrated_and_built(folder: Path) -> None:
    jobs = read(folder / ".github" / "workflows" / "ci.yml")["jobs"]
    if folder == ROOT:
        assert jobs["tests"]["strategy"]["matrix"]["python"] == choices()["python_version"]
        assert jobs["tests"]["env"]["EVERY_CELL_IN_FULL"] == jobs["newest"]["env"]["EVERY_CELL_IN_FULL"] == "true"
        return
    assert jobs["check"]["env"].items() >= {"CI": "true", "UV_LOCKED": "1"}.items()
    assert [step["run"].split("\n")[0] for step in jobs["check"]["steps"] if "run" in step] == ["make check", MIGRATE]
    [build] = [step["run"] for step in jobs["image"]["steps"] if "run" in step]
    assert build.startswith("docker build ")


@pytest.mark.parametrize("database", choices()["database"])
def test_the_migrations_step_passes_and_finds_what_is_missing(service: Service, tmp_path: Path, database: str) -> None:
    folder = service(database=database)
    job = read(folder / ".github" / "workflows" / "ci.yml")["jobs"]["check"]
    [step] = [step for step in job["steps"] if step.get("run", "").startswith(MIGRATE)]

    def migrate(variables: dict[str, str], rc: int) -> str:
        given = [f"{name}={value}" for name, value in variables.items()]
        return run("env", *given, "bash", "-e", "-c", step["run"], folder=folder, rc=rc)

    with servers(folder, tmp_path / "data") as urls:
        variables = {"DATABASE_URL": f"sqlite:///{tmp_path / 'migrated.db'}"} | urls
        migrate(variables, 0)
        change(folder / "app" / "signups" / "models.py", '__tablename__ = "audit_lines"', '__tablename__ = "lines"')
        assert "New upgrade operations detected" in migrate(variables, 255)


@pytest.mark.parametrize("answers", ANSWERS, ids=label)
def test_the_servers_are_those_of_compose(template: Path, tmp_path: Path, answers: Answers) -> None:
    render(template, tmp_path / "service", answers)
    compose = yaml.safe_load((tmp_path / "service" / "compose.yaml").read_text())["services"]
    [job] = [job for job in read(tmp_path / "service/.github/workflows/ci.yml")["jobs"].values() if "services" in job]
    images = {name: service["image"] for name, service in compose.items() if "build" not in service}
    assert {name: server["image"] for name, server in job["services"].items()} == images
    assert ("DATABASE_URL" in job["env"]) == (answers.get("database") != "sqlite")
    broker = "amqp://" if answers.get("broker") == "rabbitmq" else "redis://"
    assert job["env"]["BROKER_URL"].startswith(broker)
