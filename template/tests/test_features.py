"""Features are folders in app/ that are found by name: adding one edits no other file."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import app
from app import features
from app.factory import create_app
from app.features import FeatureError
from app.settings import Settings
from app.tasks import registry
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.serving import serving

AddFeature = Callable[..., None]

TASKS = """
from app.tasks import TaskContext, task

@task
async def number_invoice(context: TaskContext, year: int) -> str:
    return f"{year}-0001"
"""
ROUTER = """
from fastapi import APIRouter

from app.sampled_invoices.tasks import number_invoice
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="/sampled_invoices")

@router.post("/{year}", status_code=202)
async def create_invoice(year: int, tasks: Tasks) -> TaskAccepted:
    return await tasks.submit(number_invoice, year)
"""


@pytest.fixture
def add_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddFeature]:
    """Adds a folder to app/ for the test: `add_feature("sampled_invoices", router="...", tasks="...")`."""
    for kind in "models", "tasks", "router":  # the service's own features stay loaded
        list(features.load(kind))
    monkeypatch.setattr(app, "__path__", [*app.__path__, str(tmp_path)])
    known = {task.name for task in registry}
    modules = set(sys.modules)

    def add(name: str, **files: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text('"""A feature."""\n')
        for kind, text in files.items():
            (folder / f"{kind}.py").write_text(dedent(text))

    yield add
    for task in {task.name for task in registry} - known:
        registry.remove(task)
    for module in set(sys.modules) - modules:
        del sys.modules[module]
    for attribute in [name for name in vars(app) if (tmp_path / name).is_dir()]:
        delattr(app, attribute)


async def test_a_features_routes_and_tasks_work_once_its_folder_is_there(
    add_feature: AddFeature, settings: Settings, queue: InlineQueue, run_tasks: TaskRunner
) -> None:
    add_feature("sampled_invoices", tasks=TASKS, router=ROUTER)
    async with serving(settings, queue) as client:
        response = await client.post("/sampled_invoices/2026")
        assert response.status_code == 202
        await run_tasks()
        task = (await client.get(response.headers["Location"])).json()
    assert (task["name"], task["result"]) == ("sampled_invoices.number_invoice", "2026-0001")


def test_a_feature_may_have_any_of_the_files(add_feature: AddFeature, settings: Settings) -> None:
    add_feature("sampled_invoices", tasks=TASKS)
    add_feature("sampled_letters", models="")
    add_feature("sampled_nothing")
    create_app(settings)
    assert "sampled_invoices.number_invoice" in {task.name for task in registry}
    assert "app.sampled_letters.models" in sys.modules


def test_a_router_file_without_a_router_stops_the_service_naming_it(
    add_feature: AddFeature, settings: Settings
) -> None:
    add_feature("sampled_invoices", router="routes = []")
    with pytest.raises(FeatureError, match=r"app\.sampled_invoices\.router has no `router`: add router = APIRouter"):
        create_app(settings)


def test_an_error_in_a_features_file_is_not_taken_for_a_missing_file(add_feature: AddFeature) -> None:
    add_feature("sampled_invoices", tasks="import no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        features.load_tasks()


def test_features_are_loaded_in_the_order_of_their_names(add_feature: AddFeature) -> None:
    for name in "sampled_zebras", "sampled_apples", "sampled_melons":
        add_feature(name, tasks="")
    names = [module.__name__.split(".")[1] for module in features.load("tasks")]
    assert names == sorted(names)
    assert {"sampled_apples", "sampled_melons", "sampled_zebras"} <= set(names)
